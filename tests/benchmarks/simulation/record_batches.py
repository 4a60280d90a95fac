"""`python -m tests.benchmarks.simulation.record_batches`: record the batches of a real worker, for the tests.

Owns the runs whose records are in `batches.json`: a worker over a real Redis, a network that sleeps, jobs at
random times. Compares nothing.
"""

import random
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from benchmarks.simulation.network import NetworkSpeed
from broker.connection import connect
from broker.keys import Keys
from tests.support import fakes
from tests.support.redis_server import running_redis

FILE: Final = Path(__file__).with_name("batches.json")
_SECONDS: Final = 12.0


class Case(msgspec.Struct, frozen=True):
    """A worker's limits, its network, and how many jobs a second come."""

    name: str
    speed: str
    rate: float
    batch_size: int
    batch_wait_s: float = 0.0
    call_s: float = 1e9


CASES: Final = (
    Case("small batches", "150+20n", 6, 8),
    Case("full batches", "150+20n", 40, 8),
    Case("batches that fill up", "150+20n", 12, 8, batch_wait_s=0.3),
    Case("calls that take too long", "50+50n", 25, 32, call_s=0.4),
)


class Record(msgspec.Struct, frozen=True):
    """What was seen: when each job was in the queue, and each call: its beginning, pictures and seconds."""

    case: Case
    enqueued: list[float]
    calls: list[tuple[float, int, float]]


class _Network:
    def __init__(self, speed: NetworkSpeed) -> None:
        self.speed = speed
        self.calls: list[tuple[float, int, float]] = []

    def sleep(self, batch: NDArray[Any]) -> None:
        began = time.monotonic()
        time.sleep(self.speed.mean_s(len(batch)))
        self.calls.append((began, len(batch), time.monotonic() - began))


def record(case: Case) -> Record:
    """Run it."""
    network = _Network(NetworkSpeed.read(case.speed))
    enqueued: list[float] = []
    with (
        running_redis() as server,
        connect(server.url, timeout_s=5) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        keys = Keys("bw:")
        engine = fakes.FakeEngine(network.sleep)
        worker = fakes.worker(client, keys, engine, Path(folder))
        worker.pipeline.engine = engine
        worker.pipeline.limits = replace(
            worker.pipeline.limits,
            batch_size=case.batch_size,
            batch_wait_s=case.batch_wait_s,
            call_s=case.call_s,
        )
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                worker.step()

        thread = threading.Thread(target=serve)
        thread.start()
        chance, producer = random.Random(case.name), fakes.producer(client, keys)
        began = time.monotonic()
        due = began + 0.5
        while due < began + _SECONDS:
            time.sleep(max(0.0, due - time.monotonic()))
            producer.enqueue(fakes.MODEL, fakes.job())
            enqueued.append(time.monotonic())
            due += chance.expovariate(case.rate)
        while client.llen(keys.of(fakes.MODEL).queue):
            time.sleep(0.1)
        time.sleep(2)
        stopping.set()
        thread.join()
        worker.leave()

    def since(at: float) -> float:
        return round(at - began, 4)

    calls = [(since(at), pictures, round(took_s, 4)) for at, pictures, took_s in network.calls]
    return Record(case, [since(at) for at in enqueued], calls)


if __name__ == "__main__":
    records = [record(case) for case in CASES]
    FILE.write_bytes(msgspec.json.encode(records) + b"\n")
    sys.stdout.write("".join(f"{each.case.name}: {len(each.calls)} calls\n" for each in records))
