"""What claiming costs: `claim.lua` with `others.lua` and without, and with as many lanes as there are owners.

Owns the measurement, on a Redis of its own. Without `others.lua` is what a list for each input would cost.
docs/decisions.md has what followed from it.
"""

import statistics
import sys
import time
import uuid
from dataclasses import replace
from typing import Final

import numpy as np
import redis
from msgspec import structs

from broker.clock import RedisClock
from broker.connection import connect
from broker.consumer import Consumer
from broker.keys import Keys
from broker.lanes import WAITING_FOR_EACH_POLLED
from broker.lease import Lease
from broker.messages import Job
from broker.scripts import lua
from tests.support import fakes
from tests.support.redis_server import running_redis

_BATCH: Final = 32
_ROUNDS: Final = 200
_WITHOUT: Final = """local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local function live(worker) return tonumber(redis.call('ZSCORE', KEYS[1], worker) or '0') > now end
local function others_take(job) end
"""


class ClaimBench:
    """Two live workers, one of the old input and one of the new, on one queue."""

    def __init__(self, client: redis.Redis, *, shape: tuple[int, int, int]) -> None:
        self._client = client
        self._keys = Keys("bw:")
        self._image = np.zeros(shape, np.uint8)
        self.tags: list[str] = []
        self.leases: list[Lease] = []
        self.consumers: dict[str, tuple[Consumer, str]] = {}
        for side in (shape[0], shape[0] + 1):
            card = replace(fakes.CARD, input=replace(fakes.SPEC, width=side, height=side))
            lease = Lease(
                client, self._keys, card, lease_s=600, key_ttl_s=fakes.KEY_TTL_S, clock=RedisClock()
            )
            tag = card.input.tag
            consumer = Consumer(
                client,
                self._keys,
                fakes.MODEL,
                key_ttl_s=fakes.KEY_TTL_S,
                result_ttl_s=fakes.RESULT_TTL_S,
                input_tag=tag,
            )
            self.tags.append(tag)
            self.consumers[tag] = (consumer, lease.register(fakes.READY))
            self.leases.append(lease)

    def fill(self, tags: list[str]) -> None:
        """Put a job of each of these inputs into the queue, in this order."""
        blank = fakes.job()
        jobs: list[Job] = [
            structs.replace(blank, id=str(uuid.uuid4()), image=self._image, input=tag) for tag in tags
        ]
        fakes.enqueue(self._client, self._keys, *jobs)

    def fill_lanes(self, count: int) -> None:
        """Put two jobs into each of so many lanes, or more into a few; without lanes as many as into one."""
        blank = structs.replace(fakes.job(), image=self._image, input=self.tags[0])
        for number in range(max(2 * _BATCH, 2 * count)):
            lane = f"owner-{number % count}@100" if count else ""
            fakes.enqueue(self._client, self._keys, structs.replace(blank, id=str(uuid.uuid4()), lane=lane))

    def script_us(self, script: str) -> float:
        """Microseconds that Redis takes for one claim of a full batch of one input."""
        keys = self._keys.of(fakes.MODEL)
        _, worker = self.consumers[self.tags[0]]
        self.fill([self.tags[0]] * _BATCH)
        spent = self.claim_us(script, _BATCH)
        self._client.delete(keys.claims(worker), keys.queue)
        return spent

    def claim_us(self, script: str, batch: int) -> float:
        """Microseconds that Redis takes for one claim of what is there."""
        keys = self._keys.of(fakes.MODEL)
        _, worker = self.consumers[self.tags[0]]
        names = [keys.workers, keys.queue, keys.claims(worker), keys.attempts, keys.bell, keys.states]
        names += [keys.polled, keys.turns, keys.polled_turns]
        self._client.config_resetstat()
        self._client.eval(
            script,
            len(names),
            *names,
            worker,
            batch,
            keys.result_prefix,
            fakes.KEY_TTL_S,
            self.tags[0],
            0,
            WAITING_FOR_EACH_POLLED,
        )
        return float(self._client.info("commandstats")["cmdstat_eval"]["usec"])

    def given_back_us(self, script: str, batch: int) -> float:
        """The same, of jobs that it gives back."""
        spent = self.claim_us(script, batch)
        self.leases[0].give_back()
        return spent

    def mixed(self) -> tuple[float, int]:
        """Jobs of both inputs in turn: how many a claim takes, and how many claims find only the other's."""
        self.fill(self.tags * _BATCH)
        sizes: list[int] = []
        vain = 0
        while sum(sizes) < 2 * _BATCH:
            for consumer, worker in self.consumers.values():
                count = len(consumer.claim(worker, _BATCH))
                vain += not count
                if count:
                    sizes.append(count)
        return statistics.mean(sizes), vain


def lanes_us(client: redis.Redis, script: str, count: int) -> dict[int, float]:
    """Microseconds of a claim of one job, and of a full batch, with so many lanes: medians."""
    bench = ClaimBench(client, shape=(28, 28, 3))
    bench.fill_lanes(count)
    spent: dict[int, list[float]] = {1: [], _BATCH: []}
    for _ in range(_ROUNDS):
        for batch, values in spent.items():
            values.append(bench.given_back_us(script, batch))
    client.flushall()
    return {batch: statistics.median(values) for batch, values in spent.items()}


def main() -> int:
    """Run the program."""
    parts = ("take", "lanes", "owners", "claim")
    scripts = {"with": lua("others", *parts), "without": _WITHOUT + lua(*parts)}
    with running_redis() as server, connect(server.url, timeout_s=60) as client:
        for side in (28, 224):
            bench = ClaimBench(client, shape=(side, side, 3))
            spent: dict[str, list[float]] = {name: [] for name in scripts}
            for _ in range(_ROUNDS):  # in turn, so that both meet the same noise
                for name, script in scripts.items():
                    spent[name].append(bench.script_us(script))
            medians = {name: statistics.median(values) for name, values in spent.items()}
            sys.stdout.write(
                f"{side} x {side}, a claim of {_BATCH}: {medians['with']:.0f} us with others.lua, "
                f"{medians['without']:.0f} without; ratio {medians['with'] / medians['without']:.2f}\n"
            )
            began = time.monotonic()
            size, vain = bench.mixed()
            sys.stdout.write(
                f"{side} x {side}, two inputs in turn: {size:.1f} jobs a claim, {vain} claims in vain, "
                f"{(time.monotonic() - began) * 1000:.0f} ms for {2 * _BATCH}\n"
            )
            client.flushall()
        for count in (0, 1, 10, 1000):
            us = lanes_us(client, scripts["with"], count)
            sys.stdout.write(f"{count} lanes: a claim of 1 {us[1]:.0f} us, of {_BATCH} {us[_BATCH]:.0f} us\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
