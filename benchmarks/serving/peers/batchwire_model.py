"""`python -m benchmarks.serving.peers.batchwire_model`: Batchwire's model server, the others' network.

Everything but the network is the product's own process.
"""

import os
import sys

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import engine
from model_server.commands import serve as server
from model_server.engines import loading
from model_server.engines.engine import OutputNames


class Shared:
    """The network of engine.py, as Batchwire's engines are."""

    name = "openvino"
    precision = os.environ["BENCH_PRECISION"]
    outputs = OutputNames()

    def __init__(self) -> None:
        self._predict = engine.from_environment()

    def predict(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Run the network."""
        return (self._predict(batch),)


if __name__ == "__main__":
    network = Shared()
    loading.load = lambda *_, **__: network
    sys.exit(server.main())
