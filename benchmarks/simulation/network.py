"""How long a call of the network takes, by its number of pictures.

Owns the two forms in which that is given, a line and a table. Knows no batches: the model server does.
"""

import random
import re
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final, Self

SPREADS: Final = ("fixed", "exponential")

_NUMBER: Final = r"(\d+(?:\.\d*)?|\.\d+)"
_LINE: Final = re.compile(rf"{_NUMBER}(?:\+{_NUMBER}n)?")
_ENTRY: Final = re.compile(rf"(\d+):{_NUMBER}")


@dataclass(frozen=True, slots=True)
class NetworkSpeed:
    """Milliseconds of a call for some sizes of a batch; between them a straight line, and on beyond them.

    `spread`: each call takes just that, or a random time with that mean.
    """

    sizes: tuple[int, ...]
    calls_ms: tuple[float, ...]
    spread: str = "fixed"

    @classmethod
    def read(cls, text: str, spread: str = "fixed") -> Self:
        """Of `40+10n` (milliseconds), or a table, `1:50,8:120,32:360`. Raises ValueError."""
        if found := _LINE.fullmatch(text):
            fixed, each = float(found[1]), float(found[2] or 0)
            return cls((1, 2), (fixed + each, fixed + 2 * each), spread)
        found_entries = [_ENTRY.fullmatch(part) for part in text.split(",")]
        entries = [(int(entry[1]), float(entry[2])) for entry in found_entries if entry]
        sizes, calls_ms = [size for size, _ in entries], [ms for _, ms in entries]
        if len(entries) != len(found_entries) or sizes != sorted(set(sizes)) or not sizes or sizes[0] < 1:
            raise ValueError(
                f"{text!r} is not a network's speed: write milliseconds of a call of n pictures as 40+10n, "
                "or as a table by n, 1:50,8:120,32:360"
            )
        if len(sizes) == 1:
            raise ValueError(
                f"{text!r} says how long a call of one size takes, and nothing of others: add a second size, "
                f"or write 0+{calls_ms[0] / sizes[0]:g}n where each picture takes as long, "
                f"{calls_ms[0]:g} where every call does"
            )
        return cls(tuple(sizes), tuple(calls_ms), spread)

    def mean_s(self, pictures: int) -> float:
        """Seconds of a call of so many pictures, on average."""
        sizes, calls = self.sizes, self.calls_ms
        right = min(max(bisect_left(sizes, pictures), 1), len(sizes) - 1)
        slope = (calls[right] - calls[right - 1]) / (sizes[right] - sizes[right - 1])
        return max(0.0, calls[right] + slope * (pictures - sizes[right])) / 1000

    def call_s(self, pictures: int, chance: random.Random) -> float:
        """Seconds that one call takes."""
        mean_s = self.mean_s(pictures)
        return chance.expovariate(1 / mean_s) if self.spread == "exponential" and mean_s else mean_s

    def most_per_s(self, batch_size: int) -> float:
        """Pictures a second of one model server that is never idle, with full batches."""
        mean_s = self.mean_s(batch_size)
        return batch_size / mean_s if mean_s else float("inf")
