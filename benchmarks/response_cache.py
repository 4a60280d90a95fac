"""What the response cache gives: `python -m benchmarks.response_cache [PHOTO...]`.

Owns the measurement: the service's processes over a Redis of their own, with the cache on and off in turn
within one run, since a machine's figures change with its other work. 32 clients send 16 different pictures in
a circle, or pictures that never come again. The clients share the cores with the service. Must not judge the
figures; docs/decisions.md has them.
"""

import argparse
import contextlib
import http.client
import io
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from loadtest.cli.units import number
from settings import PROJECT
from tests.support.redis_server import running_redis
from tests.support.stack import Stack
from tests.support.waiting import eventually
from web.responses import CACHE_FIELD

_CLIENTS: Final = 32
_PICTURES: Final = 16
_WIDTH: Final = 640
_HEIGHT: Final = 480
_TIMEOUT_S: Final = 60.0


@dataclass
class ServedRun:
    """What the clients saw of one run."""

    seconds: float
    latencies_s: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """By status and source."""

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds

    @property
    def p50_ms(self) -> float:
        """The median of what a request took."""
        return statistics.median(self.latencies_s) * 1000


def drawn() -> list[bytes]:
    """Different pictures, the same each time: a stroke on grainy paper, some 100 KB each as JPEG."""
    pictures = []
    for seed in range(_PICTURES):
        grain = np.random.default_rng(seed).integers(225, 246, (_HEIGHT, _WIDTH), np.uint8)
        paper = Image.fromarray(grain)
        left = 200 + 10 * seed
        ImageDraw.Draw(paper).line([(left + 40, 80), (left, 400)], fill=20, width=28)
        paper.convert("RGB").save(jpeg := io.BytesIO(), "JPEG", quality=90)
        pictures.append(jpeg.getvalue())
    return pictures


@contextlib.contextmanager
def service(model: str, cache_s: int) -> Iterator[Stack]:
    """Run the service with this model, and the cache for so many seconds; 0: off."""
    with tempfile.TemporaryDirectory() as folder, running_redis() as redis:
        stack = Stack(Path(folder), redis.url, model)
        stack.environment |= {"MODELS_DIR": str(PROJECT / "models"), "RESULT_CACHE_S": str(cache_s)}
        del stack.environment["WEB_WORKERS"]
        try:
            stack.start_web()
            stack.start("model_server", log="model_server")
            eventually(lambda: bool(stack.ready_workers()), within_s=120)
            time.sleep(3)  # each web process learns of the model within two seconds of its own
            yield stack
        finally:
            stack.stop()


def run(stack: Stack, pictures: Sequence[bytes], seconds: float, *, is_new: bool) -> ServedRun:
    """Have all clients send for so long; with `is_new` each time other bytes, of the same pixels."""
    seen, until, lock = ServedRun(seconds), time.monotonic() + seconds, threading.Lock()

    def client(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=_TIMEOUT_S)
        latencies, answers = [], Counter[str]()
        for picture in itertools.islice(itertools.cycle(pictures), first, None):
            if (began := time.monotonic()) >= until:
                break
            headers = {"Content-Type": "image/jpeg"}
            body = picture + os.urandom(16) if is_new else picture  # after its end a JPEG may have anything
            connection.request("POST", f"/predict?model={stack.model}", body, headers)
            response = connection.getresponse()
            response.read()
            latencies.append(time.monotonic() - began)
            answers[f"{response.status} {response.getheader(CACHE_FIELD, '')}".strip()] += 1
        connection.close()
        with lock:
            seen.latencies_s += latencies
            seen.answers += answers

    threads = [threading.Thread(target=client, args=(number % _PICTURES,)) for number in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.response_cache", description=__doc__)
    parser.add_argument("photos", nargs="*", type=Path, help="pictures to send (default: drawn ones)")
    parser.add_argument("--model", default="digits", help="a model of models/ (default: digits)")
    parser.add_argument("--seconds", type=number, default=5.0, help="of each run (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="of both (default: 5)")
    asked = parser.parse_args()
    pictures = [photo.read_bytes() for photo in asked.photos] or drawn()
    size = statistics.mean(map(len, pictures)) / 1000
    sys.stdout.write(
        f"{len(pictures)} pictures of {size:.0f} KB, {_CLIENTS} clients, {os.cpu_count()} cores\n"
    )
    runs: dict[str, list[ServedRun]] = {
        "on": [],
        "off": [],
        "on, never the same": [],
        "off, never the same": [],
    }
    with service(asked.model, 600) as on, service(asked.model, 0) as off:
        for _ in range(asked.rounds):
            for name, its_runs in runs.items():
                stack, is_new = on if name.startswith("on") else off, name.endswith("same")
                its_runs.append(run(stack, pictures, asked.seconds, is_new=is_new))
    for name, each in runs.items():
        rates = sorted(one.per_s for one in each)
        answers = sum((one.answers for one in each), Counter[str]())
        sys.stdout.write(
            f"cache {name}: {statistics.median(rates):.0f} answers/s ({rates[0]:.0f} to {rates[-1]:.0f}), "
            f"median {statistics.median(one.p50_ms for one in each):.1f} ms, {dict(answers)}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
