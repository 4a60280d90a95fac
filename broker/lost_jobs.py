"""Jobs that Redis has lost: how they are found, and what their pollers can be told.

Owns the trace that a deleted or lost job leaves, and what can be known of one that left none; and the look
for jobs whose keys are there and which are in no list. It tells each loss once. Whose job it was, and that it
was issued at all, the id says (job_ids.py).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

import redis

from broker.clock import RedisClock
from broker.connection import translated
from broker.errors import BrokerUnavailable
from broker.job_ids import JobIds
from broker.keys import Keys, ModelKeys
from broker.scripts import lua

MOST_SEEN: Final = 10_000
"""Pending jobs whose pollers are remembered: two megabytes."""

LOOK_S: Final = 2.0
"""A job that has waited for so long is looked for in its list, and again whenever its age has doubled."""

_MARGIN_S: Final = 1.0
"""Between the clocks of two processes, and between the moment that a job names and that of its enqueuing."""

_DELETED: Final = "deleted"
_LOST: Final = "lost"


class Fate(StrEnum):
    """What became of a job that has no key any more."""

    UNKNOWN = "unknown"  # it was deleted or ended at its deadline, or there was no such job
    EXPIRED = "expired"  # it was issued so long ago that its result may have expired
    LOST = "lost"  # its result can't have expired
    LOST_BEFORE = "lost before"  # the same, and somebody has been told


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job whose key says that it waits, and its list."""

    job_id: str
    lane: str
    is_polled: bool
    there_at: float
    """No job that was written before this one has a later time (`RedisClock.latest`)."""


class JobSearch:
    """Looks for jobs in their lists. Raises what redis-py does."""

    def __init__(self, client: redis.Redis) -> None:
        self._missing_script = client.register_script(lua("missing"))

    def missing(self, keys: ModelKeys, jobs: Sequence[QueuedJob]) -> set[str]:
        """Those under these keys that were in a list and are neither there nor claimed, as far as that tells.

        A list is in order: its head tells of all of them, and no picture leaves Redis.
        """
        args: list[str] = []
        for job in jobs:
            args += (job.job_id, f"{job.there_at + _MARGIN_S:.3f}")
        is_lost = self._missing_script(
            keys=[keys.lane(job.lane, polled=job.is_polled) for job in jobs], args=[keys.result_prefix, *args]
        )
        return {job.job_id for job, lost in zip(jobs, cast("list[int]", is_lost), strict=True) if lost}


@dataclass(slots=True)
class _Sighting:
    """What this process knows of a pending job that is polled."""

    first_at: float
    """The latest of Redis' times when it was first asked about."""
    began_at: float
    """The same, monotonic."""
    last_at: float
    """Monotonic time at which Redis was last asked about it."""
    look_at: float
    """Monotonic time from which it is looked for."""


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
        self._search = JobSearch(client)
        self._seen: dict[tuple[str, str], _Sighting] = {}
        """By model and job; the last seen is last."""
        self._changing = threading.Lock()

    def remove(self, model: str, job_id: str) -> bytes | None:
        """Take away what is stored of a polled job, which is not lost by that; None: nothing was."""
        keys = self._keys.of(model, job_id)
        with translated("end a job"):
            held = self._remove_script(
                keys=[keys.result(job_id), keys.trace(job_id)], args=[_DELETED, self._result_ttl_s]
            )
        return cast("bytes | None", held)

    def is_missing(self, model: str, job_id: str, *, asked_at: float, lane: str | None) -> bool:
        """Whether a job is in no list that was pending when Redis was asked at this monotonic time.

        `lane`: that of its list; None: it stands in none. Its result was not there at that time, on which
        `fate` builds.
        """
        with self._changing:
            seen = self._seen.pop((model, job_id), None)
            if seen is None:
                # Whoever asks has its id, so it had been enqueued.
                seen = _Sighting(self._clock.of(model).latest(), asked_at, asked_at, asked_at + LOOK_S)
            self._seen[model, job_id] = seen
            seen.last_at = asked_at
            if len(self._seen) > MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            if lane is None or asked_at < seen.look_at:
                return False
            seen.look_at = 2 * asked_at - seen.began_at
        keys = self._keys.of(model, job_id)
        with translated("look for a job", self._redis, keys.types):
            return bool(self._search.missing(keys, [QueuedJob(job_id, lane, True, seen.first_at)]))

    def fate(self, model: str, job_id: str, *, owner: str = "") -> Fate:
        """What became of a job of `owner` that has no key. The first that hears of a loss hears LOST."""
        issued_at = self._ids.made_at(job_id, model, owner=owner)
        if issued_at is None:
            return Fate.UNKNOWN
        key = self._keys.of(model, job_id).trace(job_id)
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
        seen = self._seen.get((model, job_id))
        return seen is not None and self._monotonic() - seen.last_at < self._result_ttl_s
