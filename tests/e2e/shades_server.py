"""`python -m tests.e2e.shades_server LOG [DELAY_S[+EACH_S] [FLAG ...]]`: a network that misbehaves.

Everything else is the model server's own. Each shade that the network sees is appended to
LOG, so that a test can count executions, and each call's number of pictures to LOG.calls. A picture of shade
ABORT kills the process, one of shade RAISE makes the network raise; each call takes DELAY_S, and with
`DELAY_S+EACH_S` so much more a picture. A `mended` one bears every shade; a `held` one loads until there is a
file LOG.go; a `forgetful` one remembers for a second only that several owners had jobs.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_server.commands import serve as server
from model_server.engines import loading
from model_server.engines.engine import OutputNames
from model_server.serving import device

RAISE = 254
ABORT = 255


class Shades:
    """The network: one class a shade."""

    name = "shades"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, log: Path, delay_s: float, each_s: float, *, mended: bool) -> None:
        self._log = log
        self._calls = log.with_suffix(".calls")
        self._delay_s = delay_s
        self._each_s = each_s
        self._mended = mended

    def predict(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        shades = batch[:, 0, 0, 0]
        with self._log.open("a") as log:
            log.write("".join(f"{shade}\n" for shade in shades))
        with self._calls.open("a") as calls:
            calls.write(f"{len(shades)}\n")
        time.sleep(self._delay_s + self._each_s * len(shades))
        if ABORT in shades and not self._mended:
            os.abort()
        if RAISE in shades and not self._mended:
            raise RuntimeError("a shade that the network can't bear")
        return (np.eye(256, dtype=np.float32)[shades],)


if __name__ == "__main__":
    delay_s, _, each_s = (sys.argv[2] if len(sys.argv) > 2 else "0").partition("+")
    network = Shades(Path(sys.argv[1]), float(delay_s), float(each_s or 0), mended="mended" in sys.argv[3:])

    if "forgetful" in sys.argv[3:]:
        device.SHARED_S = 1.0  # type: ignore[misc]

    def load(*_: object, **__: object) -> Shades:
        while "held" in sys.argv[3:] and not Path(sys.argv[1]).with_suffix(".go").exists():
            time.sleep(0.05)
        return network

    loading.load = load
    sys.exit(server.main())
