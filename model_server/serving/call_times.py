"""How long a call of a network takes, by its number of pictures: how many fit into a time, or are efficient.

Owns that estimate. Pure: no clock and no queue.
"""

import math
import statistics
from collections import deque
from typing import Final

FIRST: Final = 8
"""Pictures in a batch while nobody knows their time: 32 on a network of a second each take half a minute."""

SMOOTHING: Final = 0.3
"""Weight of the newest batch in what the next is expected to take: its claim, and a picture of its call."""

_KEPT: Final = 0.8
"""Weight that earlier calls keep with each new one: about the last five count."""

_LEAST_SPREAD: Final = 0.01
"""Variance of the numbers of pictures, in shares of their mean's square, that a slope needs."""

_TRIED: Final = 1.25
"""So many times larger a call is tried, plus one picture."""

_LEAST_SLOPE: Final = 0.05
"""A picture adds at least this share of the mean time for each: noise must not make a network look free."""

_EFFICIENT: Final = 2 / 3
"""This share of the most pictures a second is as good as all of it, while others wait for a call."""

_BESIDE_S: Final = 0.002
"""What a batch costs besides its call: before a network that costs nothing a picture takes the model server
1.3 ms of a core, and Redis 1."""

_COMPARED: Final = 7
"""Pairs of calls whose median counts: on busy cores one call takes three times as long as the next."""

_KNOWN: Final = 5
"""So few pairs are got as soon as can be."""

_ALIKE: Final = 8
_ALIKE_S: Final = 2.0
"""After so many calls of one size, and so many seconds of them, one of another size is compared with them."""


class CallTimes:
    """A line through the last calls: what a call costs at all, and what each picture adds.

    What is efficient is judged by calls that follow one another, some of like sizes and then one with twice
    as many pictures or more, or half: what makes all slow says nothing, and calls of one size take back
    nothing.
    """

    def __init__(self) -> None:
        self.picture_s = 0.0
        """A picture's share of a call, a moving average; 0 until one was measured."""
        self._calls = 0.0
        self._pictures = self._seconds = self._squares = self._products = 0.0
        self._fixed: deque[float] = deque(maxlen=_COMPARED)
        """By pairs of calls: which share of a batch of one picture any batch costs."""
        self._alike: deque[tuple[int, float]] = deque(maxlen=_ALIKE)
        """The last calls since such a pair, the pair's second among them: pictures and seconds."""
        self._alike_s = 0.0
        """The seconds of all of those."""

    def add(self, pictures: int, seconds: float) -> None:
        """A call with so many pictures took so long."""
        self.picture_s += (SMOOTHING if self.picture_s else 1.0) * (seconds / pictures - self.picture_s)
        self._calls = _KEPT * self._calls + 1
        self._pictures = _KEPT * self._pictures + pictures
        self._seconds = _KEPT * self._seconds + seconds
        self._squares = _KEPT * self._squares + pictures * pictures
        self._products = _KEPT * self._products + pictures * seconds
        if self._alike:
            small, large = sorted([self._alike[-1][0], pictures])
            if large >= 2 * small:
                self._compare(pictures, seconds)
                self._alike.clear()
                self._alike_s = 0.0
        self._alike.append((pictures, seconds))
        self._alike_s += seconds

    def _compare(self, pictures: int, seconds: float) -> None:
        """Compare a call with those before it: by their medians, for one alone is often slow by chance."""
        usual = tuple(map(statistics.median, zip(*self._alike, strict=True)))
        small, large = sorted([usual, (pictures, seconds)])
        if large[0] > small[0]:
            self._fixed.append(_fixed_share(small, large))

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
        if fixed >= within_s or fixed + each * at_most <= within_s:
            return at_most
        return int(max(1, (within_s - fixed) / each))

    def efficient(self, at_most: int) -> int:
        """How few pictures of a call, up to `at_most`, give nearly as many a second as so many would.

        A power of two, which engines that compile for each size run without padding, or `at_most`. Now and
        then it is half of the last call's, or two after one: so it finds out, and notices when that changes.
        """
        if not self._alike:
            return at_most
        last, _ = self._alike[-1]
        size = last if not self._fixed else _efficient(statistics.median(self._fixed), at_most)
        looks = len(self._fixed) < _KNOWN or (len(self._alike) == _ALIKE and self._alike_s >= _ALIKE_S)
        if looks and last < 2 * size and size < 2 * last:  # else a call of that size is one to compare with
            size = last // 2 if last > 1 else 2
        return min(size, at_most)


def _fixed_share(small: tuple[float, float], large: tuple[float, float]) -> float:
    """What any batch costs, as a share of one of one picture, by two calls: pictures and seconds of each."""
    each = max(0.0, (large[1] - small[1]) / (large[0] - small[0]))
    fixed = max(0.0, small[1] - each * small[0]) + _BESIDE_S
    return fixed / (fixed + each)


def _efficient(fixed: float, at_most: int) -> int:
    """The least power of two, or `at_most`, that is efficient, by that share."""
    each = 1.0 - fixed
    # n / (fixed + each n) is to be _EFFICIENT of at_most / (fixed + each at_most).
    least = _EFFICIENT * at_most * fixed / (fixed + (1 - _EFFICIENT) * each * at_most)
    return min(at_most, 1 << max(0, math.ceil(math.log2(max(1.0, least)))))
