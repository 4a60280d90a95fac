"""The ids of jobs: UUIDs that say where a job is, and tell a polled one that is gone from one that never was.

Owns their layout, and the secret in Redis that seals them. What becomes of a job is not known here.

    tttttttt-mmmm-8mmm-[89ab]ssr-rrrrrrrrrrrr       RFC 9562, version 8
    t  32 bits  when it was made, in seconds of Redis' time
    m  28 bits  HMAC-SHA256 of the job's model and owner, t, s and r; of a job that is not polled: random
    s  6 bits   the shard of the model's queue and 1, or 0: the lower ones of two digits (keys.py)
    r  56 bits  random, the last 48 of them on their own

Whoever knows neither the job nor the secret guesses 84 bits (28 and 56); with the secret, which only users
of Redis can read, 56. Two ids of one second are the same once in 46 years at 10,000 jobs a second. One
invented id in 268 million looks issued, and learns nothing but that. The model and the owner are sealed, too:
for anybody but its owner, and with another model's name, an id is as good as invented, also once Redis has
forgotten whose it was.
"""

import hmac
import logging
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final, cast

import redis

from broker.clock import RedisClock
from broker.cluster import is_cluster
from broker.connection import translated
from broker.errors import BrokerUnavailable
from broker.keys import SHARD_MASK, Keys, shard_bits
from broker.shards import ShardMap

_LOG = logging.getLogger(__name__)

CHECK_S: Final = 1.0
"""How often a process that makes ids looks whether Redis still has the secret: a round trip of 0.2 ms."""

_SECRET_BYTES: Final = 32
_FORMER: Final = 4
"""Secrets of before that are remembered: two processes may put theirs back at the same moment."""

_SEAL_BITS: Final = 28
_DRAWN_BITS: Final = 62
"""The random ones, and the shard's."""


class JobIds:
    """Makes ids and knows its own. Safe to use from any thread; raises BrokerUnavailable where Redis is away.

    All processes below one prefix share the secret, which has no TTL. Each remembers it, and puts it back if
    Redis has lost it.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        clock: RedisClock,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        shards: ShardMap | None = None,
    ) -> None:
        """`shards` says into how many each model's queue is split."""
        self._redis = client
        self._shards = shards or ShardMap()
        self._key = keys.id_secret
        self._clock = clock
        self._monotonic = monotonic
        self._secrets: tuple[bytes, ...] = ()
        """The one that seals now, then those of before."""
        self._check_at = float("-inf")
        """When it is next looked whether Redis still has them."""
        self._checking = threading.Lock()

    def make(self, model: str, *, owner: str = "", is_polled: bool) -> str:
        """A fresh id, for a job of that model and owner, in any shard of the model's queue.

        Only the id of a job that is polled seals the two.
        """
        # For any job: this look is also what finds, and tells, that Redis has lost everything.
        if self._monotonic() >= self._check_at:
            self._look_for_secret()
        drawn = secrets.randbits(_DRAWN_BITS) & ~SHARD_MASK
        if model in self._shards.split:
            drawn |= shard_bits(self._shards.pick(model))
        made_at = int(self._clock.now()) & 0xFFFFFFFF
        if is_polled:
            seal = _seal(self._secrets[0], model, owner, made_at, drawn)
        else:
            seal = secrets.randbits(_SEAL_BITS)
        high, low = seal >> 12, seal & 0xFFF
        return str(uuid.UUID(int=made_at << 96 | high << 80 | 0x8 << 76 | low << 64 | 0b10 << 62 | drawn))

    def made_at(self, job_id: str, model: str, *, owner: str = "") -> float | None:
        """When the id of a polled job of that model and owner was made, in Redis' time; None: it was not."""
        try:
            made_at, seal, drawn = _parts(uuid.UUID(job_id))
        except ValueError:
            return None
        if self._monotonic() >= self._check_at:
            self._look_for_secret()
        given = seal.to_bytes(4)
        # All of them, and by digest: how long it takes is to tell nothing.
        is_known = [
            hmac.compare_digest(_seal(secret, model, owner, made_at, drawn).to_bytes(4), given)
            for secret in self._secrets
        ]
        return float(made_at) if any(is_known) else None

    def _look_for_secret(self) -> None:
        """Look whether Redis still has the secret, where that is due; not while another thread does it."""
        if self._checking.acquire(blocking=not self._secrets):
            try:
                if self._monotonic() >= self._check_at:
                    self._check()
                    self._check_at = self._monotonic() + CHECK_S
            finally:
                self._checking.release()

    def _check(self) -> None:
        own = self._secrets[0] if self._secrets else secrets.token_bytes(_SECRET_BYTES)
        stored = None
        try:
            with translated("keep the secret of job ids", self._redis, {self._key: "string"}):
                stored = cast("bytes | None", self._redis.get(self._key))
                if stored is None:
                    if self._secrets:
                        _LOG.warning(_LOST)
                    self._redis.set(self._key, own, nx=True)
                    stored = cast("bytes | None", self._redis.get(self._key))
        except BrokerUnavailable as error:
            # Full, without the right to it, or on a node of a cluster that is away while models of others are
            # asked: ids are made all the same, and are known to this process.
            if not (error.is_refusal or is_cluster(self._redis)):
                raise
        current = stored if stored and len(stored) >= _SECRET_BYTES // 2 else own
        former = tuple(each for each in self._secrets if each != current)
        self._secrets = (current, *former[:_FORMER])


_LOST: Final = (
    "Redis has lost what it held for this service (FLUSHALL, or it came back without its data). Requests "
    "that wait put their pictures into the queue again, and workers register again; polled jobs, kept "
    "results and API keys are gone."
)


def _seal(secret: bytes, model: str, owner: str, made_at: int, drawn: int) -> int:
    # Neither name can have a slash.
    sealed = f"{model}/{owner}/{made_at:08x}/{drawn:016x}"
    return int.from_bytes(hmac.digest(secret, sealed.encode(), "sha256")[:4]) >> (32 - _SEAL_BITS)


def _parts(job_id: uuid.UUID) -> tuple[int, int, int]:
    """When it was made, its seal and its random bits. Raises ValueError for a UUID of another kind."""
    value = job_id.int
    if (value >> 76 & 0xF, value >> 62 & 0b11) != (0x8, 0b10):
        raise ValueError("not a UUID of version 8")
    return value >> 96, (value >> 80 & 0xFFFF) << 12 | value >> 64 & 0xFFF, value & ((1 << _DRAWN_BITS) - 1)
