"""The log of an outage of Redis: a line when it begins, every ten seconds while it lasts, and when it ends.

Owns that rate, for all threads of the process together: each of them tries again five times a second. Tries
nothing itself.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from broker.errors import BrokerUnavailable

_LOG = logging.getLogger(__name__)

AGAIN_S: Final = 10.0
"""Between two lines while it lasts. What fails again so soon after it was back has not been well meanwhile:
a subscription that was cut off ten times a second wrote seven lines a second of its outage and its end."""


@dataclass(slots=True)
class _Trouble:
    """One kind of outage. `failing` has who failed last time; it is empty once the outage is over."""

    since: float
    said_at: float
    failing: set[Hashable] = field(default_factory=set)
    over_at: float = 0.0
    is_said: bool = True
    """Whether the last line about it says that it lasts."""
    comes_and_goes: bool = False


class Outage:
    """Safe to use from any thread. `consequence` is said after the reason.

    An unreachable Redis is one trouble of the whole process; a refusal is one of its model, since a key of a
    wrong type must not hide that Redis went away. A trouble is over once all threads that failed have
    succeeded or ended: where Redis refuses writes and takes reads, a thread that reads does not end it.
    """

    def __init__(
        self, consequence: str = "Trying again", *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._consequence = consequence
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._troubles: dict[str | None, _Trouble] = {}
        """Of the model that Redis refuses something; None: Redis can't be reached."""
        self._is_failing = False

    def failed(self, error: BrokerUnavailable, model: str = "", *, who: Hashable = None) -> None:
        """`who`, by default this thread, could not do something for `model`."""
        who = threading.current_thread() if who is None else who
        with self._lock:
            if error.is_refusal:
                self._succeeded(None, who)  # it was reached
                self._failed(model, f"{model}: {error.detail}" if model else error.detail, who)
            else:
                self._failed(None, error.detail, who)
            self._is_failing = True

    def succeeded(self, model: str = "", *, who: Hashable = None) -> None:
        """It could. Costs nothing while there is no trouble."""
        if not self._is_failing:
            return
        who = threading.current_thread() if who is None else who
        with self._lock:
            for trouble in (None, model):
                self._succeeded(trouble, who)
            self._is_failing = any(trouble.failing for trouble in self._troubles.values())

    def _failed(self, of: str | None, message: str, who: Hashable) -> None:
        now = self._monotonic()
        trouble = self._troubles.get(of)
        if trouble is None or (not trouble.failing and now - trouble.over_at >= AGAIN_S):
            trouble = self._troubles[of] = _Trouble(now, now)
            _LOG.warning("%s %s.", message, self._consequence)
        else:
            trouble.comes_and_goes |= not trouble.failing
            if now - trouble.said_at >= AGAIN_S:
                trouble.said_at, trouble.is_said = now, True
                how = "on and off " if trouble.comes_and_goes else ""
                _LOG.warning("%s %s, %sfor %.0f s now.", message, self._consequence, how, now - trouble.since)
        trouble.failing.add(who)

    def _succeeded(self, of: str | None, who: Hashable) -> None:
        trouble = self._troubles.get(of)
        if trouble is None or not trouble.failing:
            return
        trouble.failing = {other for other in trouble.failing if other != who and _may_come_back(other)}
        if trouble.failing:
            return
        trouble.over_at = now = self._monotonic()
        if trouble.is_said:
            trouble.said_at, trouble.is_said = now, False
            words = "Redis is back" if of is None else f"{of}: Redis takes it again".removeprefix(": ")
            how = " on and off" if trouble.comes_and_goes else ""
            _LOG.warning("%s, after %.1f s%s.", words, now - trouble.since, how)


def _may_come_back(who: Hashable) -> bool:
    return not isinstance(who, threading.Thread) or who.is_alive()
