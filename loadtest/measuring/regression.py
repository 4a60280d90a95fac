"""One figure of one load before and after, and whether it became worse.

Owns the verdict and its words.
"""

from dataclasses import dataclass
from typing import Final

from loadtest.cli.units import shown
from loadtest.measuring.figures import Figures

THROUGHPUT: Final = "answers/s"
FAILED: Final = "failed share"
LATENCIES: Final = ("p50", "p95", "p99", "mean")
"""All but the mean are judged: what makes it worse shows in them."""

_MORE_FAILED: Final = 0.001
"""The share of failed requests may be higher by so much: one request of a thousand."""

_ROUNDING: Final = 1e-9
"""What lies on a bound is within it, whatever binary fractions make of it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure. None where a run had nothing to count."""

    figure: str
    before: float | None
    after: float | None
    tolerance: float
    """How much lower a throughput and how much higher a latency may be, as a share."""

    @property
    def ratio(self) -> float | None:
        """After divided by before; None if one of them is missing or there was nothing before."""
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def is_worse(self) -> bool:
        """Whether it is worse by more than the tolerance. What is gone is worse, what is new is not."""
        if self.figure == "mean" or self.before is None:
            return False
        if self.after is None:
            return True
        if self.figure == FAILED:
            return self.after > self.before + _MORE_FAILED + _ROUNDING
        if self.figure == THROUGHPUT:
            return self.after < self.before * (1 - self.tolerance - _ROUNDING)
        return self.after > self.before * (1 + self.tolerance + _ROUNDING)

    @property
    def words(self) -> tuple[str, str, str]:
        """Before, after and the difference, as people read them."""
        difference = "" if self.ratio is None else f"{self.ratio - 1:+.1%}"
        return self._shown(self.before), self._shown(self.after), difference

    @property
    def sentence(self) -> str:
        """All of it: `p99 was 200 ms, is 300 ms (+50.0%)`."""
        before, after, difference = self.words
        return f"{self.figure} was {before}, is {after}" + (f" ({difference})" if difference else "")

    def _shown(self, value: float | None) -> str:
        if value is None:
            return "none"
        if self.figure == FAILED:
            return f"{value:.2%}"
        return f"{shown(value)} ms" if self.figure in LATENCIES else shown(value)


def changes(before: Figures, after: Figures, *, tolerance: float) -> list[Change]:
    """Compare every figure of one load."""
    old, new = _compared(before), _compared(after)
    return [Change(name, old[name], new[name], tolerance) for name in old]


def _compared(point: Figures) -> dict[str, float | None]:
    # What was interrupted neither failed nor was right.
    ended = point.right + point.failed
    latencies = {name: point.latency_ms.get(name) for name in LATENCIES}
    return {THROUGHPUT: point.per_s, **latencies, FAILED: point.failed / ended if ended else None}
