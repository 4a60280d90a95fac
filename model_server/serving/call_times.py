"""How long a call of a network takes, by its number of pictures: how many fit into a time, or are efficient.

Owns that estimate. Pure: no clock and no queue.
"""

import math
from typing import Final

FIRST: Final = 8
"""Pictures in a batch while nobody knows their time: 32 on a network of a second each take half a minute."""

_KEPT: Final = 0.8
"""Weight that earlier calls keep with each new one: about the last five count."""

_LEAST_SPREAD: Final = 0.01
"""Variance of the numbers of pictures, in shares of their mean's square, that a slope needs."""

_TRIED: Final = 1.25
"""So many times larger a call is tried, plus one picture."""

_LEAST_SLOPE: Final = 0.05
"""A picture adds at least this share of the mean time for each: noise must not make a network look free."""


_EFFICIENT: Final = 0.95
"""This share of the most pictures a second is as good as all of it."""


class CallTimes:
    """A line through the last calls: what a call costs at all, and what each picture adds."""

    def __init__(self) -> None:
        self._line = (0.0, 0.0)
        """Seconds of a call and of each picture in it, as calls of different sizes last told."""
        self._calls = 0.0
        self._pictures = self._seconds = self._squares = self._products = 0.0

    def add(self, pictures: int, seconds: float) -> None:
        """A call with so many pictures took so long."""
        self._calls = _KEPT * self._calls + 1
        self._pictures = _KEPT * self._pictures + pictures
        self._seconds = _KEPT * self._seconds + seconds
        self._squares = _KEPT * self._squares + pictures * pictures
        self._products = _KEPT * self._products + pictures * seconds

    def most(self, at_most: int, *, within_s: float) -> int:
        """How many pictures a call may have to take no longer, from 1 to `at_most`.

        Where a call takes longer whatever it has, fewer pictures would only make it dearer: then all.
        """
        if not self._calls:
            return min(FIRST, at_most)
        pictures, seconds = self._pictures / self._calls, self._seconds / self._calls
        each = seconds / pictures
        spread = self._squares / self._calls - pictures * pictures
        if spread < _LEAST_SPREAD * pictures * pictures:
            # All had as many: what others take is found out by trying slightly more, or what may be in time.
            tried = _TRIED * pictures + 1 if seconds <= within_s else 1
            return int(min(at_most, max(within_s / each, tried)))
        each = max(_LEAST_SLOPE * each, (self._products / self._calls - pictures * seconds) / spread)
        fixed = max(0.0, seconds - each * pictures)
        self._line = fixed, each
        if fixed >= within_s or fixed + each * at_most <= within_s:
            return at_most
        return int(max(1, (within_s - fixed) / each))

    def efficient(self, at_most: int) -> int:
        """The fewest pictures of a call, up to `at_most`, that give nearly as many a second as so many would.

        Until calls of different sizes tell: `at_most`. `most` must have been asked since.
        """
        fixed, each = self._line
        if not each:
            return at_most
        best = _EFFICIENT * at_most / (fixed + each * at_most)
        return min(at_most, max(1, math.ceil(best * fixed / (1 - best * each))))
