"""What API keys have used of their limits, in Redis: a bucket of tokens, and the jobs that have not ended.

Owns the keys of one API key's slot and the two scripts that change them: each is atomic, and a request needs
one round trip of the first. Judges nothing else and knows no HTTP: web/keys/limits.py asks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast

import redis

from broker import codec
from broker.api_keys import ApiKey
from broker.cluster import ask_time, redis_time, time_of
from broker.connection import translated
from broker.keys import MODEL_NAME, Keys
from broker.scripts import lua

LISTED: Final = 1000
"""Jobs that are polled of one key, of which people are shown what is left; the newest."""

GRACE_S: Final = 1.0
"""So long after its deadline a job may still be about to end."""


_BEGINNING: Final = 64
"""Bytes of a result key that are looked at: all that it says while it is pending, but for whose it is."""


class LimitVerdict(StrEnum):
    """What a request for some of the limits came to."""

    TAKEN = "taken"
    RATE = "rate"  # too few tokens
    JOBS = "jobs"  # too many jobs


@dataclass(frozen=True, slots=True)
class TakenLimits:
    """The verdict, and what is left after it."""

    verdict: LimitVerdict
    tokens: float
    jobs: int
    """That have not ended, as far as is known."""


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A polled job of a key."""

    model: str
    job_id: str
    accepted_at: float
    """Redis' time."""
    deadline: float | None
    """Redis' time; None: it has ended."""
    left_s: float
    """Seconds that its key stays."""


class KeyLimitStore:
    """The limits of all keys. Safe to share between threads; every method raises BrokerUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys, *, key_ttl_s: int) -> None:
        self._redis = client
        self._keys = keys
        self._key_ttl_s = key_ttl_s
        self._take_script = client.register_script(lua("key_take"))
        self._return_script = client.register_script(lua("key_return"))

    def take(
        self, key: ApiKey, members: Sequence[str], *, time_s: float, most_s: float, polled: bool
    ) -> TakenLimits:
        """Take a token and a place for each member, which is a job's: all or none.

        `time_s`: until their deadline; `most_s`: the longest that a job may have. `polled`: they are listed.
        """
        fills_s = key.burst / key.rate if key.rate else 0.0
        ttl_s = max(self._key_ttl_s, 2 * int(fills_s))
        with translated("judge an API key's limits"):
            verdict, tokens, jobs = self._take_script(
                keys=self._slot(key.name),
                args=[
                    *(len(members), repr(key.rate), key.burst, key.jobs, f"{time_s + GRACE_S:.3f}"),
                    *(f"{most_s + 2 * GRACE_S:.3f}", ttl_s, LISTED if polled else 0, *members),
                ],
            )
        return TakenLimits(LimitVerdict(verdict.decode()), float(tokens), int(jobs))

    def give_back(self, name: str, members: Iterable[str], *, tokens: int = 0, is_listed: bool = True) -> int:
        """Free the places of jobs that have ended, and return tokens; return how many places it were.

        `is_listed`: the jobs stay in the list of those that are polled.
        """
        with translated("judge an API key's limits"):
            args = [tokens, "0" if is_listed else "1", *members]
            return int(self._return_script(keys=self._slot(name), args=args))

    def ended(self, name: str, *, first: int, look_at: int, within_s: float) -> list[str]:
        """The members that have ended, among so many jobs from the place `first` in the order of deadlines.

        One without a result key counts where its deadline comes within so many seconds: one of a later
        deadline may not be enqueued yet.
        """
        now, oldest = self._by_deadline(name, first, look_at)
        absent_before = now + within_s
        judged = [(str(member, "ascii"), deadline) for member, deadline in oldest if _job(member) is not None]
        states = self._states([member for member, _ in judged])
        return [
            member
            for (member, deadline), (value, _) in zip(judged, states, strict=True)
            if not value.startswith(codec.PENDING) and (value or deadline < absent_before)
        ]

    def listed(self, name: str, *, before: float | None, most: int, absent_s: float) -> list[ListedJob]:
        """The key's polled jobs that are pending or whose results are kept, the newest first.

        Of those that were accepted before a time, if given. What is no more is forgotten, if it was accepted
        `absent_s` ago: a later one may not be enqueued yet.
        """
        key, found = self._keys.of_api_key(name).polled, list[ListedJob]()
        with translated("list an API key's jobs"):
            absent_before = redis_time(self._redis, key) - absent_s
        top = "+inf" if before is None else f"({before!r}"
        while len(found) < most:
            with translated("list an API key's jobs"):
                page = cast(
                    "list[tuple[bytes, float]]",
                    self._redis.zrevrangebyscore(key, top, "-inf", start=0, num=most, withscores=True),
                )
            members = [str(member, "ascii") for member, _ in page]
            gone = []
            for (_, at), member, state in zip(page, members, self._states(members), strict=True):
                value, left_s = state
                if value:
                    found.append(ListedJob(*_parts(member), at, _deadline(value), left_s))
                elif at < absent_before:
                    gone.append(member)
            if gone:
                with translated("list an API key's jobs"):
                    self._redis.zrem(key, *gone)
            if len(page) < most:
                break
            top = f"({page[-1][1]!r}"
        return found[:most]

    def _by_deadline(self, name: str, first: int, count: int) -> tuple[float, list[tuple[bytes, float]]]:
        """The time of the key's node, which gave the deadlines, and so many jobs in their order."""
        key = self._keys.of_api_key(name).jobs
        with (
            translated("judge an API key's limits"),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            ask_time(pipe, key)
            pipe.zrange(key, first, first + count - 1, withscores=True)
            time, jobs = pipe.execute()
        return time_of(time), jobs

    def _states(self, members: Sequence[str]) -> list[tuple[bytes, float]]:
        """How each job's result key begins, empty where there is none, and for how many seconds it stays."""
        if not members:
            return []
        with translated("look up a job"), self._redis.pipeline(transaction=False) as pipe:
            for member in members:
                model, job_id = _parts(member)
                pipe.getrange(self._keys.result(model, job_id), 0, _BEGINNING - 1)
                pipe.pttl(self._keys.result(model, job_id))
            replies = pipe.execute()
        return [
            (value, max(0, left_ms) / 1000)
            for value, left_ms in zip(replies[::2], replies[1::2], strict=True)
        ]

    def _slot(self, name: str) -> list[str]:
        own = self._keys.of_api_key(name)
        return [own.bucket, own.jobs, own.polled]


def polled_member(model: str, job_id: str) -> str:
    """What a polled job is called in its key's slot: whether it has ended can be looked up."""
    return f"{model}:{job_id}"


def waiting_member(job_id: str) -> str:
    """What a job is called there whose client waits: who waits says when it has ended."""
    return f":{job_id}"


def _deadline(value: bytes) -> float | None:
    pending = codec.decode_pending(value)
    return pending[1] if pending is not None else None


def _parts(member: str) -> tuple[str, str]:
    model, _, job_id = member.partition(":")
    return model, job_id


def _job(member: bytes) -> bytes | None:
    """The member, if it is a polled job's."""
    model, _, _ = member.partition(b":")
    return member if MODEL_NAME.fullmatch(model.decode("latin-1")) else None
