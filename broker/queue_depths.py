"""What the queues hold, and how full Redis is: for metrics, and for an operator.

Owns those numbers. Decides nothing by them; admission.py judges by what it asks itself.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import redis

from broker import codec
from broker.clock import RedisClock
from broker.cluster import nodes
from broker.connection import translated
from broker.errors import BrokerUnavailable, MalformedMessage
from broker.keys import Keys, ModelKeys
from broker.lanes import HEADS, LaneReader, QueueLengths, ask, of_lists, together
from broker.shards import ShardMap


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What a model's queue holds: jobs of clients that wait, and that poll. And what else waits for it."""

    waiting: int
    polled: int
    oldest_s: float
    """The age of the oldest job; 0 where there is none."""
    dead: int
    webhooks: int
    lanes: int
    """Owners' lanes with jobs in them."""
    asked_s: float
    """Seconds since a picture last came for the model; infinity where that is not known any more."""


@dataclass(frozen=True, slots=True)
class RedisMemory:
    """Bytes that Redis uses, and may use; 0: it has no limit."""

    used: int
    limit: int


class QueueDepths:
    """Asks Redis for them. Its methods raise BrokerUnavailable where Redis is away."""

    def __init__(self, client: redis.Redis, keys: Keys, clock: RedisClock, shards: ShardMap) -> None:
        self._redis = client
        self._keys = keys
        self._clock = clock
        self._shards = shards
        self._lanes = LaneReader(client)

    def of(self, models: Iterable[str]) -> dict[str, QueueDepth]:
        """What the queues of these models hold now, in one round trip, and two for each that has lanes."""
        asked = [(name, self._shards.parts(self._keys, name)) for name in models]
        with translated("measure a queue"), self._redis.pipeline(transaction=False) as pipe:
            for name, parts in asked:
                pipe.get(self._keys.of(name).asked)
                for keys in parts:
                    ask(pipe, keys)
                    pipe.lindex(keys.queue, 0)
                    pipe.lindex(keys.polled, 0)
                    pipe.llen(keys.dead)
                    pipe.zcard(keys.webhooks)
            # One key of a wrong type must not hide the others.
            told = pipe.execute(False)
            for reply in told:
                if isinstance(reply, redis.ConnectionError | redis.TimeoutError):
                    raise reply  # a node of a cluster is away: a sum without it would be taken for all
            replies: Iterator[Any] = iter(
                [0 if isinstance(reply, redis.ResponseError) else reply for reply in told]
            )
        return {name: self._depth(next(replies), parts, replies) for name, parts in asked}

    def _depth(self, asked: bytes | None, parts: Sequence[ModelKeys], replies: Iterator[Any]) -> QueueDepth:
        """What these parts of a queue hold, of what Redis said of each."""
        sums: list[QueueLengths] = []
        accepted: list[float] = []
        dead = webhooks = 0
        for keys in parts:
            waiting, polled, has_lanes, *heads, dead_here, webhooks_here = islice(replies, 7)
            lengths, accepted_here = of_lists(waiting, polled), []
            for job in filter(None, heads):
                with contextlib.suppress(MalformedMessage):  # a worker drops it; it hides no other number
                    accepted_here.append(codec.accepted_at(job))
            if has_lanes:
                lengths, accepted_here = self._with_lanes(keys) or (lengths, accepted_here)
            sums.append(lengths)
            accepted += accepted_here
            dead, webhooks = dead + dead_here, webhooks + webhooks_here
        lengths = together(sums)
        model = parts[0].model
        oldest_s = self._clock.of(model).now() - min(accepted) if accepted else 0.0
        return QueueDepth(
            lengths.waiting,
            lengths.polled,
            max(0.0, oldest_s),
            dead,
            webhooks,
            lengths.lanes,
            self._since_s(model, asked),
        )

    def _since_s(self, model: str, asked: bytes | None) -> float:
        """How long ago a model was asked, of what its key holds."""
        if not asked:
            return math.inf
        at, clock = float(asked), self._clock.of(model)
        return max(0.0, clock.now() - at - clock.shift_s(at))

    def memory(self) -> RedisMemory | None:
        """How full Redis is, of a cluster the fullest primary; None where it does not tell this user."""
        try:
            with translated("tell its memory"):
                told = [node.info("memory") for node in nodes(self._redis)]
        except BrokerUnavailable as error:
            if error.is_refusal:
                return None
            raise
        each = [RedisMemory(int(info["used_memory"]), int(info.get("maxmemory", 0))) for info in told]
        return max(each, key=lambda memory: (memory.used / (memory.limit or math.inf), memory.used))

    def _with_lanes(self, keys: ModelKeys) -> tuple[QueueLengths, list[float]] | None:
        """How long a queue with lanes is, and when its heads were accepted; None where a key is misplaced."""
        with translated("measure a queue"), contextlib.suppress(redis.ResponseError):
            return self._lanes.shared(keys), [each for each in self._lanes.accepted(keys, most=HEADS) if each]
        return None
