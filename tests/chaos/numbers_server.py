"""`python -m tests.chaos.numbers_server LOG DELAY_S [WORK_S]`: a model server whose network reads numbers.

Everything but the network is the product's own process. Each number that the network sees is appended to
LOG, one write a batch, so that executions can be counted; each call takes DELAY_S, and each picture WORK_S of
the processor: more time than that where others have it.
"""

import hashlib
import os
import sys
import time

import numpy as np
from numpy.typing import NDArray

from model_server.commands import serve as server
from model_server.engines import loading
from model_server.engines.engine import OutputNames
from tests.chaos import numbers

_DATA = bytes(100_000)
"""Its hash takes 0.1 ms of one core, without Python's lock."""


class Numbers:
    """The network: one class a number."""

    name = "numbers"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, log: str, delay_s: float, work_s: float = 0.0) -> None:
        self._work_s = work_s
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._delay_s = delay_s

    def predict(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        found = numbers.read(batch)
        os.write(self._log, "".join(f"{number}\n" for number in found).encode())
        time.sleep(self._delay_s)
        until = time.thread_time() + self._work_s * len(found)
        while time.thread_time() < until:
            hashlib.sha256(_DATA)
        outputs = np.zeros((len(found), numbers.COUNT), np.float32)
        outputs[np.arange(len(found)), found] = 1
        return (outputs,)


if __name__ == "__main__":
    network = Numbers(sys.argv[1], *map(float, sys.argv[2:]))
    loading.load = lambda *_, **__: network
    sys.exit(server.main())
