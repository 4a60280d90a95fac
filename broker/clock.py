"""Redis' time without asking Redis: an offset to this process' monotonic clock.

Owns the one notion of time that deadlines and leases share, so that hosts may disagree about theirs, and so
may the nodes of a cluster: there each model has a clock, of the node that has its slot. And the memory of
that clock's steps, so that a time written before one is not misread after it. Processes share what they
noticed of steps, for those that begin later.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import redis

from broker.cluster import is_cluster
from broker.connection import translated
from broker.errors import BrokerUnavailable
from broker.keys import Keys

_LOG = logging.getLogger(__name__)

STEP_S: Final = 0.5
"""A change of Redis' clock that is called a step; a smaller one is a slow reply, or drift."""

AHEAD_S: Final = 1.0
"""How far in the future a time may lie that was written by a process whose clock is a little fast."""

_STEPS_REMEMBERED: Final = 16

_STEPS_TTL_S: Final = 2 * 86400
"""Longer than any time that could be misread lies in Redis."""

_MODELS: Final = 1024
"""Clocks of a process: clients may ask for models of any name."""

_SAME_S: Final = 1.0
"""Between what two processes make of one step."""


@dataclass(frozen=True, slots=True)
class _Step:
    """Redis' clock went from `before` to `after`, as was noticed at the monotonic time `at`.

    It happened after `since`, on the scale before it.
    """

    at: float
    before: float
    after: float
    since: float

    def may_be(self, before: float) -> bool:
        """Whether it is the step that another process noticed at that time."""
        return self.since - _SAME_S <= before <= self.before + _SAME_S

    def moved(self, written_at: float, now: float) -> float:
        """A time on the scale after this step, if it was written before it; `now` is monotonic."""
        delta = self.after - self.before
        if delta > 0:
            # No process has written anything in the gap, but for the moment until it noticed the step.
            is_older = written_at < self.before + delta / 2
        else:
            is_older = written_at > self.after + (now - self.at) + AHEAD_S
        return written_at + delta if is_older else written_at


class RedisClock:
    """Seconds since 1970 as Redis sees them. Safe to use from any thread."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, by_model: bool = False, model: str = ""
    ) -> None:
        self._by_model = by_model
        self._of = lru_cache(_MODELS)(lambda name: RedisClock(monotonic, model=name))
        self.model: Final = model
        """Whose node's clock it is; empty: that of the one Redis, or of what lies outside the models."""
        self.monotonic: Final = monotonic
        """This process' own clock, to be read before and after asking for TIME."""
        self.stepped_ahead_at = float("-inf")
        """Monotonic time at which the last step forward was noticed: leases lapsed in it."""
        self.has_news = False
        """It noticed a step that `share_steps` has not told yet."""
        self.has_stepped = False
        """A step is known: only then can `shift_s` be other than 0."""
        # Until the first sync the host's own clock is the best guess.
        self._offset_s = time.time() - monotonic()
        self._within_s = float("inf")
        self._synced_at = float("-inf")
        self._steps: tuple[_Step, ...] = ()
        self._syncing = threading.Lock()

    def of(self, model: str) -> "RedisClock":
        """The clock by which this model's leases and deadlines are judged.

        In a cluster that of the node with its slot: where the slot moves, that clock steps.
        """
        return self._of(model) if self._by_model else self

    def key(self, keys: Keys) -> str:
        """A key on the node whose clock it is; it has the steps that were noticed."""
        return keys.of(self.model).clock if self.model else keys.clock

    def now(self) -> float:
        """Redis' time now, right to about half the shortest round trip."""
        return self.monotonic() + self._offset_s

    def latest(self) -> float:
        """The latest of Redis' times that may have been written by now: before a step back it was ahead."""
        return max((self.now(), *(step.before for step in self._steps)))

    def sync(self, redis_now: float, *, sent: float, received: float) -> None:
        """Learn that Redis said `redis_now` at some moment between `sent` and `received` (monotonic).

        The middle is right to half the round trip. A slow one that agrees with a quicker one before it
        tells nothing new, and would shift the clock by what its process waited for a core (tens of
        milliseconds on a busy machine); one that contradicts it is believed, for then a clock has moved.
        """
        offset_s, within_s = redis_now - (sent + received) / 2, (received - sent) / 2
        with self._syncing:
            if self._steps and sent < self._steps[-1].at:
                return  # perhaps asked before that step, by another thread
            change_s = offset_s - self._offset_s
            agrees = abs(change_s) <= within_s + self._within_s
            if not agrees and abs(change_s) > within_s + self._within_s + STEP_S:
                since = self._synced_at + self._offset_s
                self._add(_Step(received, received + self._offset_s, received + offset_s, since))
            self._synced_at = received
            if not agrees or within_s <= self._within_s:
                self._offset_s, self._within_s = offset_s, within_s

    def shift_s(self, written_at: float) -> float:
        """What to add to times written at `written_at` (Redis' time then), to compare them with now.

        0 unless Redis' clock has stepped since. Of a time that a step back repeats it is unknown whether it
        was written before that.
        """
        moved, now = written_at, self.monotonic()
        for step in self._steps:
            moved = step.moved(moved, now)
        return moved - written_at

    def merge(self, shared: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Adopt steps that other processes noticed (before, after); return those that only this one has."""
        with self._syncing:
            now = self.now()
            adopted: list[_Step] = []
            for before, after in shared:
                if adopted and adopted[-1].may_be(before) and abs(adopted[-1].after - after) < 2 * _SAME_S:
                    continue  # two noticed it at the same moment
                own = next((step for step in self._steps if step.may_be(before)), None)
                at = own.at if own else self.monotonic() - max(0.0, now - after)
                adopted.append(_Step(at, before, after, before))
            rest = [step for step in self._steps if not any(step.may_be(before) for before, _ in shared)]
            self._steps = (*adopted, *rest)[-_STEPS_REMEMBERED:]
            self.has_stepped = bool(self._steps)
            self.has_news = False
        return [(step.before, step.after) for step in rest]

    def _add(self, step: _Step) -> None:
        self._steps = (*self._steps, step)[-_STEPS_REMEMBERED:]
        self.has_news = self.has_stepped = True
        if step.after > step.before:
            self.stepped_ahead_at = step.at
        by_s = step.after - step.before
        _LOG.warning("Redis' clock has stepped by %+.1f s: leases and deadlines move with it.", by_s)


def clock_of(client: redis.Redis) -> RedisClock:
    """A clock for the Redis of this client."""
    return RedisClock(by_model=is_cluster(client))


def share_steps(client: redis.Redis, keys: Keys, clock: RedisClock) -> None:
    """Tell other processes which steps `clock` noticed, and take over theirs. Raises BrokerUnavailable."""
    key = clock.key(keys)
    with translated("tell the steps of its clock", client, {key: "list"}):
        shared = []
        for entry in client.lrange(key, 0, -1):
            before, after = map(float, entry.split())
            shared.append((before, after))
    news = clock.merge(shared)
    if not news:
        return
    # A full Redis refuses it: those who live know of the step all the same.
    with contextlib.suppress(BrokerUnavailable), translated("keep the steps of its clock"):
        client.rpush(key, *(f"{before:.3f} {after:.3f}" for before, after in news))
        client.ltrim(key, -_STEPS_REMEMBERED, -1)
        client.expire(key, _STEPS_TTL_S)
