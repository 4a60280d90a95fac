"""`python -m tests.e2e.shades_server LOG [DELAY_S [mended] [held]]`: a model server whose network misbehaves.

Everything but the network is the product's own process. Each shade that the network sees is appended to
LOG, so that a test can count executions. A picture of shade ABORT kills the process, one of shade RAISE
makes the network raise; each call takes DELAY_S. A mended one bears every shade; a held one
loads until there is a file LOG.go.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_server import engines
from model_server.commands import serve as server
from model_server.engines import OutputNames

RAISE = 254
ABORT = 255


class Shades:
    """The network: one class a shade."""

    name = "shades"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, log: Path, delay_s: float, *, mended: bool) -> None:
        self._log = log
        self._delay_s = delay_s
        self._mended = mended

    def predict(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        shades = batch[:, 0, 0, 0]
        with self._log.open("a") as log:
            log.write("".join(f"{shade}\n" for shade in shades))
        time.sleep(self._delay_s)
        if ABORT in shades and not self._mended:
            os.abort()
        if RAISE in shades and not self._mended:
            raise RuntimeError("a shade that the network can't bear")
        return (np.eye(256, dtype=np.float32)[shades],)


if __name__ == "__main__":
    delay_s = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    network = Shades(Path(sys.argv[1]), delay_s, mended="mended" in sys.argv[3:])

    def load(*_: object, **__: object) -> Shades:
        while "held" in sys.argv[3:] and not Path(sys.argv[1]).with_suffix(".go").exists():
            time.sleep(0.05)
        return network

    engines.load = load
    sys.exit(server.main())
