"""An API key's limits as the web tier keeps them: what a request takes, what it gives back, and its refusals.

Owns the words and the header fields of both, and the look for jobs that have ended elsewhere. Atomic is the
broker's script (key_limits.py).
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.api_keys import ApiKey, KnownKeys
from broker.errors import BrokerUnavailable, ClientError
from broker.job_ids import JobIds
from broker.key_limits import (
    KeyLimitStore,
    LimitVerdict,
    ListedJob,
    TakenLimits,
    polled_member,
    waiting_member,
)
from web import metrics
from web.errors import RateLimited, TooManyJobs
from web.keys import access

_LOOK_AT: Final = 64
"""Of a key's jobs, when it has as many as it may: first the oldest, and the next time those after them."""
_LOOK_S: Final = 0.25

_JOBS_VALID_S: Final = 0.1
"""For so long a key is believed to have too many jobs."""
_RATE_VALID_S: Final = 1.0
"""For no longer a key is believed to have no token: an operator may change its limits."""

_MOST_RETRY_S: Final = 3600

HeaderFields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request has taken of its key's limits."""

    key: ApiKey
    members: tuple[str, ...]
    """A place for each picture."""
    ids: tuple[str, ...]
    """The ids that its jobs shall have: a job that is polled ends where nobody remembers this."""
    is_polled: bool

    @property
    def needs_end(self) -> bool:
        """Whether anything of it may have to be given back."""
        return bool(self.members)


class KeyLimiter:
    """Takes and gives back. Safe to use from any thread; methods raise BrokerUnavailable."""

    def __init__(
        self,
        store: KeyLimitStore,
        ids: JobIds,
        *,
        request_timeout_s: float,
        async_timeout_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self._ids = ids
        self._request_timeout_s = request_timeout_s
        self._most_s = max(request_timeout_s, async_timeout_s)
        self._monotonic = monotonic
        self._looked: dict[str, tuple[float, int]] = {}
        """When a key's jobs were last looked at, and which come next."""
        self._looking = threading.Lock()

    def take(self, key: ApiKey, model: str, pictures: int, *, polled: bool, time_s: float) -> Reservation:
        """Take a token and a place for each picture. A key without limits needs no round trip, unless polled.

        Raises RateLimited, TooManyJobs; ClientError for more than the key may ever have.
        """
        _require_possible(key, pictures)
        ids = tuple(self._ids.make(model, owner=key.name, is_polled=polled) for _ in range(pictures))
        if not (key.rate or key.jobs or polled):
            return Reservation(key, (), ids, polled)
        members = tuple(polled_member(model, each) if polled else waiting_member(each) for each in ids)
        taken = self._taken(key, members, polled=polled, time_s=time_s)
        if taken.verdict is LimitVerdict.JOBS and self._freed(key, taken.jobs):
            taken = self._taken(key, members, polled=polled, time_s=time_s)
        fields = _fields(key, taken)
        access.note_limits(fields)
        if taken.verdict is LimitVerdict.TAKEN:
            metrics.key_pictures(key.name, pictures)
            return Reservation(key, members, ids, polled)
        raise _refusal(key, taken, pictures, fields)

    def settle(self, reservation: Reservation, *, ended: Sequence[bool], refunds: int) -> None:
        """Give back the places of those pictures whose jobs have `ended`, or never began, and tokens.

        That Redis is away costs nothing but the places until their deadlines.
        """
        members = [each for each, is_over in zip(reservation.members, ended, strict=True) if is_over]
        key = reservation.key
        tokens = refunds if key.rate else 0
        if not (tokens or (members and (key.jobs or reservation.is_polled))):
            return
        try:
            self.store.give_back(key.name, members, tokens=tokens, is_listed=False)
        except BrokerUnavailable:
            return

    def ended(self, name: str, model: str, job_id: str) -> None:
        """A client of the key of this name was told that its polled job has ended. The job stays listed."""
        with contextlib.suppress(BrokerUnavailable):
            self.store.give_back(name, [polled_member(model, job_id)])

    def cancelled(self, name: str, model: str, job_id: str) -> None:
        """A polled job of the key of this name was ended by its client."""
        try:
            self.store.give_back(name, [polled_member(model, job_id)], is_listed=False)
        except BrokerUnavailable:
            return

    def listed(self, name: str, *, before: float | None, most: int) -> list[ListedJob]:
        """The polled jobs of the key of this name, as KeyLimitStore.listed has them."""
        # As in `_freed`: what is absent longer was decoded, and is no more.
        return self.store.listed(name, before=before, most=most, absent_s=self._request_timeout_s)

    def _taken(self, key: ApiKey, members: Sequence[str], *, polled: bool, time_s: float) -> TakenLimits:
        return self.store.take(key, members, time_s=time_s, most_s=self._most_s, polled=polled)

    def _freed(self, key: ApiKey, jobs: int) -> bool:
        """Look among its `jobs` for some that ended in a model server; return whether a place became free.

        Not more often than every _LOOK_S, and not at all of them at once. But at all of them in turn: the
        oldest may be waited for, or wait for a model that nobody serves, while those after them have ended.
        """
        with self._looking:
            now = self._monotonic()
            looked_at, first = self._looked.get(key.name, (-math.inf, 0))
            if now - looked_at < _LOOK_S:
                return False
            first = first if first < jobs else 0
            self._looked[key.name] = now, first + _LOOK_AT
        # One without a result key was taken so long ago that its upload must have been decoded.
        within_s = self._most_s - self._request_timeout_s
        ended = self.store.ended(key.name, first=first, look_at=_LOOK_AT, within_s=within_s)
        return bool(ended) and self.store.give_back(key.name, ended) > 0


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The API keys of a process: those that it knows, and what they have left."""

    known: KnownKeys
    limiter: KeyLimiter


def _require_possible(key: ApiKey, pictures: int) -> None:
    """Raise ClientError for a request that would be refused for ever."""
    for most, what in ((key.burst if key.rate else 0, "at once"), (key.jobs, "in unfinished jobs")):
        if most and pictures > most:
            raise ClientError(
                f"The request has {pictures} pictures, and this API key may have at most {most} {what}: send "
                "fewer."
            )


def _refusal(
    key: ApiKey, taken: TakenLimits, pictures: int, fields: HeaderFields
) -> RateLimited | TooManyJobs:
    refusal: RateLimited | TooManyJobs
    if taken.verdict is LimitVerdict.RATE:
        wait_s = min(_MOST_RETRY_S, math.ceil((pictures - taken.tokens) / key.rate))
        one_s = (1 - taken.tokens) / key.rate
        refusal = RateLimited(
            f"This API key has reached its rate (pictures a second: {key.rate:g}, at once: {key.burst}); "
            f"come back in {wait_s} s.",
            retry_after_s=wait_s,
            valid_s=max(0.0, min(_RATE_VALID_S, one_s)),
        )
    else:
        refusal = TooManyJobs(
            f"This API key has reached its limit of unfinished jobs ({taken.jobs} of {key.jobs}); come back "
            "in 1 s.",
            valid_s=_JOBS_VALID_S if taken.jobs >= key.jobs else 0.0,
        )
    refusal.fields = fields
    metrics.limited(key.name, refusal.code)
    return refusal


def _fields(key: ApiKey, taken: TakenLimits) -> HeaderFields:
    """What is left, as draft-ietf-httpapi-ratelimit-headers-10 has it; t: seconds until all is there."""
    policies, left = [], []
    if key.rate:
        policies.append(f'"pictures";q={key.burst};w={max(1, math.ceil(key.burst / key.rate))}')
        full_s = max(0, math.ceil((key.burst - taken.tokens) / key.rate))
        left.append(f'"pictures";r={max(0, math.floor(taken.tokens))};t={full_s}')
    if key.jobs:
        policies.append(f'"jobs";q={key.jobs};qu="concurrent-requests"')
        left.append(f'"jobs";r={max(0, key.jobs - taken.jobs)}')
    if not policies:
        return ()
    return (("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(left)))
