"""`python -m benchmarks.simulation.sleeper SPEED LOG`: a model server whose network takes a known time.

Owns that network. Everything else is the product's own process. Each call is a line of LOG: when it began, on
the monotonic clock, and how many pictures it had.
"""

import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.network import NetworkSpeed
from model_server.commands import serve
from model_server.engines import loading
from model_server.engines.engine import OutputNames, Outputs

CLASSES: Final = 5


class Sleeper:
    """The network: it sleeps as long as a call of so many pictures takes."""

    name = "sleeper"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, speed: NetworkSpeed, log: Path) -> None:
        self._speed = speed
        self._log = log.open("a", buffering=1)

    def predict(self, batch: NDArray[Any]) -> Outputs:
        """Sleep until the call has taken its time, the log's line included."""
        began = time.monotonic()
        self._log.write(f"{began:.6f} {len(batch)}\n")
        scores = np.zeros((len(batch), CLASSES), np.float32)
        scores[:, 0] = 1
        time.sleep(max(0.0, began + self._speed.mean_s(len(batch)) - time.monotonic()))
        return (scores,)


if __name__ == "__main__":
    network = Sleeper(NetworkSpeed.read(sys.argv[1]), Path(sys.argv[2]))
    loading.load = lambda *_, **__: network
    sys.exit(serve.main())
