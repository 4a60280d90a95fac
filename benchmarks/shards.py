"""How many pictures a second one core of Redis carries, by shards and nodes: `python -m benchmarks.shards`.

Owns the measurement, on servers of its own: the CPU time of each server's process, with its append-only file,
for a picture from its enqueueing until its answer, in full batches. CPU time, for a machine may be busy and
have fewer cores than there are nodes. The node that has most to do is full first, so it says what all carry
together. The figures are in docs/performance.md.
"""

import argparse
import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import psutil
import redis
from msgspec import structs

from broker.clock import RedisClock
from broker.connection import connect
from broker.consumer import CompletedJob, Consumer
from broker.keys import Keys
from broker.messages import Result
from broker.producer import Producer
from broker.replies import Replies, Waiter
from broker.shards import ShardMap
from tests.support import fakes
from tests.support.redis_cluster import running_cluster
from tests.support.redis_server import RedisServer, client_of, running_redis

_SIDES: Final = {28: 1, 224: 3}
"""Side of a picture -> its channels."""
_BATCH: Final = 32
_BATCHES: Final = 60
_ROUNDS: Final = 5
_FRONTEND: Final = "frontend"
_ANSWER_S: Final = 30.0


class Case(NamedTuple):
    """One line of the table."""

    nodes: int
    shards: int


_CASES: Final = (Case(1, 1), Case(1, 2), Case(1, 4), Case(2, 1), Case(2, 4), Case(4, 4))
"""On two nodes shards 0 and 1 are on one: their slots are neighbours."""


class QueueLoad:
    """A web process and a model server, as far as Redis sees them."""

    def __init__(self, client: redis.Redis, shards: int) -> None:
        web, server = client_of(client, "web"), client_of(client, "model_server")
        keys, card = Keys("bw:"), replace(fakes.CARD, shards=shards)
        spread = ShardMap()
        spread.note([card])
        self.producer = Producer(web, keys, fakes.LIMITS, shards=spread)
        self._replies = Replies(web, keys, _FRONTEND)
        self._replies.start()
        self._waiters: dict[str, Waiter] = {}
        own = fakes.lease(client, keys, lease_s=600, card=card)
        consumer = Consumer(
            server,
            keys,
            fakes.MODEL,
            key_ttl_s=fakes.KEY_TTL_S,
            result_ttl_s=fakes.RESULT_TTL_S,
            clock=RedisClock(),
        )
        self._parts = [(consumer, own.register(fakes.READY))]
        for shard in range(shards if shards > 1 else 0):
            lease = own.of_shard(shard)
            self._parts.append((consumer.of_shard(shard, lease.clock), lease.register(fakes.READY)))

    def run(self, pictures: int, side: int) -> None:
        """So many pictures, a full batch a shard at a time."""
        image = np.zeros((side, side, _SIDES[side]), np.uint8)
        blank = structs.replace(fakes.job(), image=image, reply_to=_FRONTEND)
        taken = enqueued = 0
        while taken < pictures:
            for _ in range(min(_BATCH * len(self._parts), pictures - enqueued)):
                job_id = self.producer.ids.make(fakes.MODEL, is_polled=False)
                self._waiters[job_id] = self._replies.expect(fakes.MODEL, job_id)
                self.producer.enqueue(fakes.MODEL, structs.replace(blank, id=job_id))
                enqueued += 1
            is_last = enqueued == pictures
            for consumer, worker in self._parts:
                # Under load: what makes no full batch waits for more.
                while (waiting := consumer.waiting()) >= _BATCH or (is_last and waiting):
                    taken += self._batch(consumer, worker)

    def _batch(self, consumer: Consumer, worker: str) -> int:
        ids = [each.id for each in consumer.claim(worker, _BATCH)]
        done = [
            CompletedJob(each, Result(id=each, model=fakes.MODEL, model_version="v1"), _FRONTEND)
            for each in ids
        ]
        if not consumer.complete(worker, done):
            raise SystemExit("a batch was not completed")
        for job_id in ids:
            waiter = self._waiters.pop(job_id)
            if waiter.wait(_ANSWER_S) is None:
                raise SystemExit("an answer did not come")
            self._replies.forget(waiter)
        return len(ids)

    def close(self) -> None:
        """End the subscription."""
        self._replies.stop()


@contextlib.contextmanager
def servers(nodes: int) -> Iterator[tuple[str, Sequence[RedisServer]]]:
    """The URL of one server, or of a cluster of so many nodes, and they themselves."""
    if nodes == 1:
        with running_redis() as server:
            yield server.url, [server]
    else:
        with running_cluster(primaries=nodes) as cluster:
            yield cluster.url, cluster.nodes


def spent_us(case: Case, side: int) -> list[float]:
    """Microseconds of CPU that each node takes for a picture, of all pictures that there are."""
    with servers(case.nodes) as (url, nodes), connect(url, timeout_s=60) as client:
        load = QueueLoad(client, case.shards)
        load.run(_BATCH * (1 + case.shards), side)  # scripts are loaded, and connections made
        processes = [psutil.Process(node.pid) for node in nodes]
        before = [sum(process.cpu_times()[:2]) for process in processes]
        pictures = _BATCH * _BATCHES
        load.run(pictures, side)
        after = [sum(process.cpu_times()[:2]) for process in processes]
        load.close()
    return [(end - begin) / pictures * 1e6 for begin, end in zip(before, after, strict=True)]


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shards", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    rounds = parser.parse_args().rounds
    for side in _SIDES:
        figures: dict[Case, list[list[float]]] = {case: [] for case in _CASES}
        for _ in range(rounds):  # in turn, so that all meet the same noise
            for case, of_case in figures.items():
                of_case.append(spent_us(case, side))
        for case, of_case in figures.items():
            totals, busiest = sorted(map(sum, of_case)), statistics.median(map(max, of_case))
            sys.stdout.write(
                f"{side} x {side}, {case.shards} shards on {case.nodes} nodes: "
                f"{statistics.median(totals):.0f} us of CPU a picture ({totals[0]:.0f} to {totals[-1]:.0f}), "
                f"{busiest:.0f} on the busiest node, so {1e6 / busiest:.0f} pictures a second\n"
            )
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
