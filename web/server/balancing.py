"""How many connections each process of the web tier has, known to all of them.

Owns a page of memory that the processes share, and the rule by which a new connection goes to one that has
few. Touches no socket: worker.py accepts, or leaves it to another.
"""

import mmap
import struct
import time
from collections.abc import Callable
from typing import Final

SLACK: Final = 2
"""Connections that a process may have more than the one with the fewest, before it leaves one to that."""

PATIENCE_S: Final = 0.005
"""How long a new connection is left to the others, at most: one of them may be busy, or stopped."""

SILENT_S: Final = 2.5
"""A process that said nothing for so long does not count: it is gone, or hangs. They speak once a second."""

_SLOTS: Final = 64
_ENTRY: Final = struct.Struct("=dq")
"""When it spoke, by the monotonic clock, which is one for all processes; and its connections."""

# Made when Gunicorn's master imports this, so that the processes that it forks have the same one.
_PAGE: Final = mmap.mmap(-1, _SLOTS * _ENTRY.size)


class ConnectionBalance:
    """One process among the others, for its loop thread alone.

    Left to themselves, whichever process is awake first takes a new connection: of 40 clients that came at
    once, one of two processes had all, and the core that it ran on was the limit.
    """

    def __init__(
        self, number: int, *, page: mmap.mmap = _PAGE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Two processes whose numbers lie 64 apart would overwrite each other: less even, and no worse.
        self._mine = number % _SLOTS
        self._page = page
        self._clock = clock
        self.leaves_until = 0.0
        """When it takes what it left to the others, if they have not; 0: it left none."""
        self._has_ended = False

    def tell(self, connections: int) -> None:
        """Say how many this process has. Not atomic: who reads half of it leaves one connection wrongly."""
        if not self._has_ended:
            _ENTRY.pack_into(self._page, self._mine * _ENTRY.size, self._clock(), connections)

    def leave(self, connections: int) -> bool:
        """Whether this process, which has so many, leaves a connection that is there to the others.

        It does so for PATIENCE_S; what is there then it takes.
        """
        now = self._clock()
        # It takes one that it has just left to the others, and as it ends all that wait.
        if now > self.leaves_until + PATIENCE_S and not self._has_ended:
            others = [
                count
                for slot, (spoke, count) in enumerate(_ENTRY.iter_unpack(self._page[:]))
                if slot != self._mine and spoke >= now - SILENT_S
            ]
            if others and connections > min(others) + SLACK:
                self.leaves_until = now + PATIENCE_S
                return True
        self.leaves_until = 0.0
        return False

    def end(self) -> None:
        """This process takes no connections any more: nobody is to leave one to it."""
        _ENTRY.pack_into(self._page, self._mine * _ENTRY.size, 0.0, 0)
        self._has_ended = True

    def left_s(self) -> float:
        """For how long this process still leaves connections to the others."""
        return max(0.0, self.leaves_until - self._clock())
