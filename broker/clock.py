"""Redis' time without asking Redis: an offset to this process' monotonic clock.

Owns the one notion of time that deadlines and leases share, so that hosts may disagree about theirs.
"""

import time
from collections.abc import Callable
from typing import Final


class RedisClock:
    """Seconds since 1970 as Redis sees them. One writer (the last to ask TIME), many readers."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic: Final = monotonic
        """This process' own clock, to be read before and after asking for TIME."""
        # Until the first sync the host's own clock is the best guess.
        self._offset_s = time.time() - monotonic()
        self._within_s = float("inf")

    def now(self) -> float:
        """Redis' time now, right to about half the shortest round trip."""
        return self.monotonic() + self._offset_s

    def sync(self, redis_now: float, *, sent: float, received: float) -> None:
        """Learn that Redis said `redis_now` at some moment between `sent` and `received` (monotonic).

        The middle is right to half the round trip. A slow one that agrees with a quicker one before it
        tells nothing new, and would shift the clock by what its process waited for a core (tens of
        milliseconds on a busy machine); one that contradicts it is believed, for then a clock has moved.
        """
        offset_s, within_s = redis_now - (sent + received) / 2, (received - sent) / 2
        agrees = abs(offset_s - self._offset_s) <= within_s + self._within_s
        if not agrees or within_s <= self._within_s:
            self._offset_s, self._within_s = offset_s, within_s
