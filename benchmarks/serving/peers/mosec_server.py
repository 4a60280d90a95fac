"""mosec: two stages, as its examples of image models show it: decoding in two processes, the network in one.

Owns the stages and their start. The picture is the request's body. mosec reads its address from its own
command line.
"""

import os
from typing import Any

import numpy as np
from mosec import Server, Worker
from numpy.typing import NDArray

from benchmarks.serving import decode, engine


class Decode(Worker):
    """A picture's bytes to pixels."""

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def forward(self, data: bytes) -> NDArray[np.uint8]:
        """Decode."""
        return decode.pixels(data)


class Classify(Worker):
    """A batch of pixels to answers."""

    def __init__(self) -> None:
        self._predict = engine.from_environment()

    def forward(self, data: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """Run the network."""
        return [decode.answer(row) for row in self._predict(np.stack(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=os.cpu_count() or 1)
    # A window of 0 would mean none at all: mosec then waits 10 ms.
    server.append_worker(Classify, num=1, max_batch_size=32, max_wait_time=int(os.environ["BENCH_WAIT_MS"]))
    server.run()
