"""The highest rate that still meets an objective: growing or shrinking, then bisection, then confirmation.

Owns the choice of the next rate to try. Sends nothing: trying one is the caller's.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

LOWEST_RATE: Final = 1.0
HIGHEST_RATE: Final = 1e6

_GROWTH: Final = 1.6
_MOST_TRIES: Final = 60  # from 1 to a million it takes 30, and 6 to close in


@dataclass(frozen=True, slots=True)
class RateSearch:
    """What a search found. `rate` is None when nothing met the objective."""

    rate: float | None
    missed: float | None
    """The lowest rate that missed; None when the highest allowed was met."""
    tried: list[tuple[float, bool]] = field(default_factory=list)


async def highest(
    meets: Callable[[float], Awaitable[bool]],
    *,
    first: float,
    low: float = LOWEST_RATE,
    high: float = HIGHEST_RATE,
    within: float = 0.05,
) -> RateSearch:
    """Search between `low` and `high`, starting at `first`, until the bounds are `within` of each other.

    The result is met twice, since one measurement may be luck, and no rate up to it ever missed: where the
    second misses, the search goes on below.
    """
    tried: list[tuple[float, bool]] = []
    rate = min(max(_readable(first), low), high)
    bad: float | None = None
    while len(tried) < _MOST_TRIES:
        tried.append((rate, await meets(rate)))
        bad = min((rate for rate, met in tried if not met), default=None)
        good = max((rate for rate, met in tried if met and (bad is None or rate < bad)), default=None)
        if good is not None and tried.count((good, True)) == 2:
            return RateSearch(good, bad, tried)
        if bad is not None and bad <= low:
            break
        rate = _next(good, bad, low=low, high=high, within=within)
    return RateSearch(None, bad, tried)


def _next(good: float | None, bad: float | None, *, low: float, high: float, within: float) -> float:
    """Return the rate to try between what was met and what missed; `good` again where they are close."""
    if good is None:
        return max(_readable(bad / _GROWTH), low) if bad else low
    if bad is None:
        return min(_readable(good * _GROWTH), high)
    middle = _readable((good * bad) ** 0.5)
    return middle if bad / good - 1 > within and good < middle < bad else good


def _readable(rate: float) -> float:
    """Three digits: finer than any measurement here, and they can be read aloud."""
    return float(f"{rate:.3g}")
