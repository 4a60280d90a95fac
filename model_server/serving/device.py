"""The device that the models of one process share: one network runs at a time.

Owns the order in which they get it, how long one may keep it from the others, and whether several clients
with keys share it. Knows nothing of models, jobs or threads' names.
"""

import collections
import math
import threading
import time
from collections.abc import Collection
from types import TracebackType
from typing import Final

from broker.messages import owner_of

PATIENCE_S: Final = 1.0
"""Nobody waits longer for the call of one other: then it runs beside it. Two at once cost each other time,
but a network that takes a minute, or hangs, would hold up every other model of its process."""

SHARED_S: Final = 60.0
"""For so long it counts as shared after the job of another owner: one whose next picture is still to come has
none in the queue when the batch is claimed for which that picture will wait."""


class RecentOwners:
    """Whether several owners had jobs here lately. Safe to use from any thread: at worst it learns late."""

    def __init__(self) -> None:
        self._last, self._last_at = "", -math.inf
        """Whose job came last, and when."""
        self._until = -math.inf

    def add(self, lanes: Collection[str], now: float, *, beside: bool = False) -> None:
        """Jobs of these lanes came, '' is nobody's; `beside`: other owners have turns. `now` is monotonic."""
        owners = {lane and owner_of(lane) for lane in lanes}
        if beside or len(owners) > 1:
            self._until = now + SHARED_S
        for owner in owners:
            if owner != self._last:
                self._until = max(self._until, self._last_at + SHARED_S)
            self._last, self._last_at = owner, now

    def several(self, now: float) -> bool:
        """Whether they did, at this monotonic time."""
        return now < self._until


class Device:
    """A lock that is handed on in the order of asking, and past an owner who keeps it too long.

    A plain lock starves its other waiters when its owner takes it again right after giving it back, which
    is what a busy model does.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._mutex = threading.Lock()
        self._waiters: collections.deque[tuple[int, threading.Event]] = collections.deque()
        self._owner: int | None = None
        """The thread that has it; None while it is free."""
        self._since = 0.0
        self.owners = RecentOwners()
        """Whose jobs run on it: of one model they wait for those of another, too."""
        self.waiting = 0
        """How many threads wait for it."""

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if self._owner is None:
                self._owner, self._since = me, time.monotonic()
                return
            turn = threading.Event()
            self._waiters.append((me, turn))
            self.waiting += 1
        while not turn.wait(self._patience_s):
            with self._mutex:
                if self.waiting and time.monotonic() - self._since >= self._patience_s:
                    self._hand_on()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            if self._owner != threading.get_ident():
                return  # it was handed on past this one
            if self.waiting:
                self._hand_on()
            else:
                self._owner = None

    def _hand_on(self) -> None:
        """Give it to the thread that has waited longest."""
        self._owner, turn = self._waiters.popleft()
        self.waiting -= 1
        self._since = time.monotonic()
        turn.set()
