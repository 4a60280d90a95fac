"""Service level objectives: what a load must meet, such as `p99=200ms,errors=0.1%`.

Owns their notation and the judgement. No request may fail unless `errors` says how many may: quick refusals
must not make a percentile look good.
"""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.cli import units


def nearest_rank(ordered: NDArray[np.float64] | Sequence[float], percent: float) -> float | None:
    """Return the smallest value that at least `percent` per cent do not exceed; None of no values.

    The nearest-rank percentile, exact: no interpolation, no buckets (Hyndman and Fan 1996, definition 1).
    """
    if len(ordered) == 0:
        return None
    return float(ordered[max(_rank(len(ordered), percent), 1) - 1])


def _rank(count: int, percent: float) -> int:
    # Rounded, since 71.9 * 83000 / 100 is 59677.00000000001.
    return math.ceil(round(percent * count / 100, 6))


@dataclass(frozen=True, slots=True)
class Slo:
    """The bounds that a load must keep: latencies by percentile (100: the largest), and failed requests."""

    latencies_s: dict[float, float]
    errors: float = 0.0
    text: str = ""

    def misses(self, latencies_s: NDArray[np.float64], failed: int) -> list[str]:
        """Return what is missed, in words; empty when everything is met. Latencies are of right answers."""
        total = len(latencies_s) + failed
        if total == 0:
            return ["nothing was measured"]
        if failed > round(self.errors * total, 6):  # 0.7 / 100 is less than 0.007
            return [f"{failed} of {total} requests failed; errors may be {self.errors * 100:.4g}% at most"]
        # A budget for errors is a budget: what fails within it does not count against the percentiles.
        ordered = np.sort(latencies_s)
        misses = []
        for percent, limit_s in self.latencies_s.items():
            found = nearest_rank(ordered, percent)
            if found is None or found > limit_s:
                shown = units.shown_seconds(found) if found is not None else "unknown"
                misses.append(f"{percentile_name(percent)} is {shown}, not {units.shown_seconds(limit_s)}")
        return misses

    def allowed_late(self, planned: int) -> tuple[float, int]:
        """Return (seconds, how many of `planned` may take longer) of the bound that is missed first."""
        limit_s = min(self.latencies_s.values(), default=math.inf)
        percent = max((p for p, limit in self.latencies_s.items() if limit == limit_s), default=100.0)
        return limit_s, planned - _rank(planned, percent)


def percentile_name(percent: float) -> str:
    """`p99`, `p99.9`, `max`."""
    return "max" if percent == 100 else f"p{percent:g}"


def parse(text: str) -> Slo:
    """Read `p99=200ms`, `max=1s`, `errors=0.1%`, or several with commas; ArgumentTypeError otherwise."""
    latencies: dict[float, float] = {}
    errors = 0.0
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        percentile = re.fullmatch(r"p([0-9]{1,2}(?:\.[0-9]+)?)", name)
        if name == "errors":
            errors = units.share(value)
        elif name == "max":
            latencies[100.0] = _latency_s(value)
        elif percentile and float(percentile[1]) > 0:
            latencies[float(percentile[1])] = _latency_s(value)
        else:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not an objective: write p99=200ms, max=1s or errors=1%"
            )
    return Slo(latencies, errors, text)


def _latency_s(text: str) -> float:
    if not text[-1:].isalpha():  # of a latency most people mean milliseconds, of a duration seconds
        raise argparse.ArgumentTypeError(f"a latency needs its unit: write 200ms or 2s, not {text!r}")
    return units.seconds(text)
