"""Polled jobs that have no key any more: deleted, expired, or lost by Redis.

Owns the trace that a deleted or lost job leaves, and what can be known of one that left none. It tells each
loss once. Whose job it was, and that it was issued at all, the id says (job_ids.py).
"""

import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Final, cast

import redis

from broker.clock import RedisClock
from broker.connection import translated
from broker.errors import BrokerUnavailable
from broker.job_ids import JobIds
from broker.keys import Keys
from broker.scripts import lua

MOST_SEEN: Final = 10_000
"""Pending jobs whose pollers are remembered: a megabyte and a half."""

_DELETED: Final = "deleted"
_LOST: Final = "lost"


class Fate(StrEnum):
    """What became of a job that has no key any more."""

    UNKNOWN = "unknown"  # it was deleted or ended at its deadline, or there was no such job
    EXPIRED = "expired"  # it was issued so long ago that its result may have expired
    LOST = "lost"  # its result can't have expired
    LOST_BEFORE = "lost before"  # the same, and somebody has been told


class LostJobs:
    """Tells what became of polled jobs. Safe to share between threads; methods raise BrokerUnavailable."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        clock: RedisClock,
        ids: JobIds,
        *,
        result_ttl_s: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = client
        self._keys = keys
        self._clock = clock
        self._ids = ids
        self._result_ttl_s = result_ttl_s
        self._monotonic = monotonic
        self._remove_script = client.register_script(lua("remove"))
        self._seen: dict[tuple[str, str], float] = {}
        """Job -> monotonic time at which it was last asked about and pending; the last seen is last."""
        self._changing = threading.Lock()

    def remove(self, model: str, job_id: str) -> bytes | None:
        """Take away what is stored of a polled job, which is not lost by that; None: nothing was."""
        keys = self._keys.of(model)
        with translated("end a job"):
            held = self._remove_script(
                keys=[keys.result(job_id), keys.trace(job_id)], args=[_DELETED, self._result_ttl_s]
            )
        return cast("bytes | None", held)

    def note_pending(self, model: str, job_id: str, *, asked_at: float) -> None:
        """A job was pending when Redis was asked at this monotonic time: no result of it was there yet."""
        with self._changing:
            self._seen.pop((model, job_id), None)
            self._seen[model, job_id] = asked_at
            if len(self._seen) > MOST_SEEN:
                del self._seen[next(iter(self._seen))]

    def fate(self, model: str, job_id: str, *, owner: str = "") -> Fate:
        """What became of a job of `owner` that has no key. The first that hears of a loss hears LOST."""
        issued_at = self._ids.made_at(job_id, model, owner=owner)
        if issued_at is None:
            return Fate.UNKNOWN
        key = self._keys.of(model).trace(job_id)
        with translated("look up a job"):
            trace = self._redis.get(key)
        if trace is not None:
            return Fate.LOST_BEFORE if trace == _LOST.encode() else Fate.UNKNOWN
        if not self._is_young(model, job_id, issued_at):
            return Fate.EXPIRED
        try:
            with translated("note that a job is lost"):
                is_first = bool(self._redis.set(key, _LOST, nx=True, ex=self._result_ttl_s))
        except BrokerUnavailable as error:
            if not error.is_refusal:
                raise
            is_first = True  # a full Redis notes nothing, and each that hears of it is the first
        return Fate.LOST if is_first else Fate.LOST_BEFORE

    def _is_young(self, model: str, job_id: str, issued_at: float) -> bool:
        """Whether so little time has passed that a result of the job would still be there.

        Its result came after it was issued, and after it was last seen pending, and stays for RESULT_TTL_S.
        """
        if self._clock.now() - issued_at - self._clock.shift_s(issued_at) < self._result_ttl_s:
            return True
        seen_at = self._seen.get((model, job_id), float("-inf"))
        return self._monotonic() - seen_at < self._result_ttl_s
