"""Whether a load has settled: the last three windows agree.

Owns the rule, a pure function. Rate and median, not p99: of a few hundred requests a window's p99 is one
request, and would never agree.
"""

from collections.abc import Sequence
from typing import Final

WINDOWS: Final = 3


def is_stable(windows: Sequence[tuple[float, float | None]], within: float) -> bool:
    """Whether the last three (answers a second, median latency) differ by that share at most.

    The share is of the three's mean. A window without answers is never stable.
    """
    last = windows[-WINDOWS:]
    medians = [median for _, median in last if median is not None]
    rates = [rate for rate, _ in last]
    if len(last) < WINDOWS or len(medians) < WINDOWS or min(rates) <= 0:
        return False
    return _spread(rates) <= within and _spread(medians) <= within


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean else 0.0
