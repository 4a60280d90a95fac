"""`python -m benchmarks.serving.limits bare|serverless ...`: what the network gives with no server around it.

Owns the two limits, measured in one process of the engine's environment: the network alone (`bare BATCH
SECONDS`), and decoding plus the network as the best server could run them (`serverless full|draft CLIENTS
SECONDS PICTURE...`). Prints one JSON object. Serves nobody.
"""

import json
import os
import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import decode, engine
from broker.messages import Fit, InputSpec
from pictures.fit import prepare

_BATCH: Final = 32
_SPEC: Final = InputSpec(width=engine.SIDE, height=engine.SIDE, channels=3, fit=Fit.STRETCH)

Decoded = tuple[float, NDArray[np.uint8]]


def bare(batch: int, seconds: float) -> dict[str, Any]:
    """The network alone, on the same batch again and again."""
    predict = engine.from_environment()
    pictures = np.random.default_rng(0).integers(0, 256, (batch, engine.SIDE, engine.SIDE, 3), dtype=np.uint8)
    predict(pictures)
    began, cpu, done = time.monotonic(), time.process_time(), 0
    while time.monotonic() < began + seconds:
        predict(pictures)
        done += batch
    took_s = time.monotonic() - began
    return {"per_s": done / took_s, "cpu_ms": (time.process_time() - cpu) / done * 1e3}


class Serverless:
    """So many pictures in flight: a pool decodes them, this thread runs what is decoded, up to 32 at once."""

    def __init__(self, how: str, pictures: list[bytes]) -> None:
        self._pictures = pictures
        self._is_full = how == "full"
        self._predict = engine.from_environment()
        self._decoded: queue.SimpleQueue[Decoded] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._sent = 0

    def run(self, clients: int, seconds: float) -> dict[str, Any]:
        """Measure for so long."""
        for _ in range(clients):
            self._send()
        latencies: list[float] = []
        began, cpu = time.monotonic(), time.process_time()
        while time.monotonic() < began + seconds:
            batch = self._batch()
            for row in self._predict(np.stack([pixels for _, pixels in batch])):
                json.dumps(decode.answer(row))
            now = time.monotonic()
            for sent_at, _ in batch:
                latencies.append((now - sent_at) * 1e3)
                self._send()
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
        self._pool.shutdown(cancel_futures=True)
        return {
            "per_s": len(latencies) / took_s,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "requests": len(latencies),
            "failed": 0,
            "cpu_ms": {"process": cpu_s / len(latencies) * 1e3},
        }

    def _batch(self) -> list[Decoded]:
        """What is decoded, as soon as there is any."""
        batch = [self._decoded.get()]
        while len(batch) < _BATCH and not self._decoded.empty():
            batch.append(self._decoded.get())
        return batch

    def _send(self) -> None:
        self._pool.submit(self._decode, time.monotonic(), self._pictures[self._sent % len(self._pictures)])
        self._sent += 1

    def _decode(self, sent_at: float, picture: bytes) -> None:
        if self._is_full:
            pixels = decode.pixels(picture)
        else:
            pixels = prepare(picture, _SPEC, max_pixels=50_000_000).pixels
        self._decoded.put((sent_at, pixels))


def main() -> None:
    """Measure what the arguments say."""
    match sys.argv[1:]:
        case ["bare", batch, seconds]:
            found = bare(int(batch), float(seconds))
        case ["serverless", how, clients, seconds, *paths]:
            pictures = [Path(path).read_bytes() for path in paths]
            Serverless(how, pictures).run(min(8, int(clients)), 1.0)
            found = Serverless(how, pictures).run(int(clients), float(seconds))
        case _:
            sys.exit(__doc__)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
