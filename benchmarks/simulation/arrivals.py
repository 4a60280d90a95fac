"""When pictures come: evenly, at random, as in a day, or at given times.

Owns the curves, the same for the same seed. Knows nothing of what becomes of a picture.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

CURVES: Final = ("constant", "poisson", "day")

_MOST_TIMES: Final = 10_000_000


class BadTimes(ValueError):
    """A file of times can't be read, or is none; the text says why."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Pictures a second over a time. `peak` is the day's highest rate, as `rate` is its mean."""

    kind: str
    rate: float
    duration_s: float
    peak: float = 0.0

    def times(self, seed: int) -> Iterator[float]:
        """Yield the seconds at which pictures come, in order, up to `duration_s`."""
        if self.kind == "constant":
            for number in count():
                if (at := number / self.rate) >= self.duration_s:
                    return
                yield at
        gaps, at = random.Random(seed), 0.0
        most = self.peak if self.kind == "day" else self.rate
        while (at := at + gaps.expovariate(most)) < self.duration_s:
            # Thinning: of a process with the highest rate that share stays which this moment's rate is of it.
            if self.kind == "poisson" or gaps.random() * most < self.rate_at(at):
                yield at

    def rate_at(self, at: float) -> float:
        """Pictures a second at that moment. A day has one night, at its ends, and one noon."""
        if self.kind != "day":
            return self.rate
        night = 2 * self.rate - self.peak
        return night + (self.peak - night) * math.sin(math.pi * at / self.duration_s) ** 2


def read_times(path: Path) -> list[float]:
    """The times of a file: a number of seconds a line, in any order; the first picture comes at 0.

    Raises BadTimes.
    """
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTimes(f"{path} can't be read: {error}") from error
    times: list[float] = []
    for number, line in enumerate(lines, 1):
        try:
            times.append(float(line))
        except ValueError:
            raise BadTimes(f"{path}: {line!r}, number {number}, is not a number of seconds") from None
    if not times or len(times) > _MOST_TIMES or not all(map(math.isfinite, times)):
        raise BadTimes(f"{path} has to have 1 to {_MOST_TIMES} finite numbers of seconds")
    first = min(times)
    return sorted(time - first for time in times)
