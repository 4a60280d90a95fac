"""What the service was like over the last hour: a sample every ten seconds in Redis, for the status page.

Owns the two keys, their bounds, and whose turn it is to write: of all web processes one at a time, until it
is gone. What a sample says is counted by web/history.py.
"""

import contextlib
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import redis

from broker import codec
from broker.connection import translated
from broker.errors import MalformedMessage
from broker.keys import Keys

SAMPLE_S: Final = 10.0

SAMPLES: Final = 360
"""An hour. A sample of ten models has about a kilobyte."""

_TTL_S: Final = 3600
_TURN_S: Final = 25
"""A writer that has not come back by then is gone: two samples are missing."""


class ModelSample(msgspec.Struct, frozen=True):
    """A model at that moment."""

    queue: int
    """Jobs in the queue."""
    workers: int
    """Workers that are ready."""
    pictures_per_s: float | None
    """Since the writer's sample before; None: it is the writer's first."""
    errors_per_s: float | None
    """Pictures that failed, for any reason, as the web tier of the writer's host counts them."""
    latency_ms: float | None
    """From the queue to the end of the batch, on average; None: there was no picture."""


class Sample(msgspec.Struct, frozen=True):
    """The service at that moment."""

    at: float
    """Redis' time."""
    models: dict[str, ModelSample]
    redis_bytes: int | None
    p50_ms: float | None
    p95_ms: float | None
    """Of requests that asked a model, as the web tier of the writer's host answered them."""


@dataclass(frozen=True, slots=True)
class HistoryStore:
    """The samples in Redis. Safe to share between threads."""

    client: redis.Redis
    keys: Keys

    def take_turn(self, writer: str) -> bool:
        """Whether it is this process that writes, of the name `writer`. Raises BrokerUnavailable."""
        key = self.keys.history_writer
        with translated("give a turn"):
            if self.client.set(key, writer, nx=True, ex=_TURN_S):
                return True
            if self.client.get(key) != writer.encode():
                return False
            # Two may believe that it is theirs for a moment, after a pause: then there is a sample more.
            return bool(self.client.expire(key, _TURN_S))

    def add(self, sample: Sample) -> None:
        """Keep a sample, and the newest SAMPLES of all. A full Redis keeps none. Raises BrokerUnavailable."""
        key = self.keys.history
        with (
            translated("keep a sample", self.client, {key: "list"}),
            self.client.pipeline(transaction=False) as pipe,
        ):
            pipe.rpush(key, msgspec.json.encode(sample))
            pipe.ltrim(key, -SAMPLES, -1)
            pipe.expire(key, _TTL_S)
            pipe.execute()

    def samples(self) -> list[Sample]:
        """All, the oldest first; what another release wrote is left out. Raises BrokerUnavailable."""
        key = self.keys.history
        with translated("show the last hour", self.client, {key: "list"}):
            kept = cast("list[bytes]", self.client.lrange(key, 0, -1))
        samples = []
        for each in kept:
            with contextlib.suppress(MalformedMessage):
                samples.append(codec.decode(each, Sample))
        return samples
