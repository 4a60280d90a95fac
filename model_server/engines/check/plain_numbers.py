"""Compares outputs that are plain numbers, of whatever meaning: vectors, quantities, pictures, maps.

Owns the measure and its tolerances; agreement.py refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model_server.engines.engine import Outputs

TOLERANCES: Final = {"fp32": 0.001, "bf16": 0.06, "fp16": 0.06, "int8": 0.3}
"""The largest share, by precision."""


@dataclass(frozen=True, slots=True)
class NumbersVerdict:
    """The largest difference of any picture, by some measure, and what is allowed."""

    pictures: int
    share: float
    allowed: float
    words: str = "outputs differ by {} of their size"
    """What the share is of; by default the root mean square difference of an output, of its size."""

    @property
    def agrees(self) -> bool:
        """Whether the engine may serve. A difference of NaN is too large."""
        return self.share <= self.allowed

    def __str__(self) -> str:
        return (
            f"on {self.pictures} pictures {self.words.format(f'{self.share:.2g}')} (at most {self.allowed:g})"
        )


def compare(reference: Outputs, outputs: Outputs, precision: str) -> NumbersVerdict:
    """Compare outputs, each float32 with the pictures as first axis. Raises ValueError if shapes differ.

    An output's size is its root mean square over all pictures of the check: a single number near 0 is not
    judged by itself.
    """
    shapes = [[output.shape for output in side] for side in (reference, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the outputs' shapes are {shapes[1]}, but should be {shapes[0]}")
    shares = []
    for right, actual in zip(reference, outputs, strict=True):
        size = max(float(np.sqrt(np.mean([_mean_square(each) for each in right]))), _LEAST_SIZE)
        largest = np.max([_mean_square(*pair) for pair in zip(right, actual, strict=True)])
        shares.append(float(np.sqrt(largest)) / size)
    # NumPy's maximum, because that of a number and NaN is NaN.
    return NumbersVerdict(len(reference[0]), float(np.max(shares)), TOLERANCES[precision])


_LEAST_SIZE: Final = 1e-12


def _mean_square(numbers: NDArray[np.float32], others: NDArray[np.float32] | float = 0.0) -> float:
    """The mean square of a picture's numbers, or of how far they are from others.

    In float64, and therefore of one picture at a time: maps of all ten would take a gigabyte.
    """
    wide = np.subtract(numbers, others, dtype=np.float64)
    return float(np.mean(np.square(wide)))
