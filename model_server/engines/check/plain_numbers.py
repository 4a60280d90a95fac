"""Compares outputs that are plain numbers, of whatever meaning: vectors, quantities, pictures, maps.

Owns the measure and its tolerances; agreement.py refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from model_server.engines import Outputs

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
        wide, other = right.astype(np.float64), actual.astype(np.float64)
        size = max(float(np.sqrt(np.mean(wide**2))), _LEAST_SIZE)
        each = np.sqrt(np.mean((wide - other).reshape(len(wide), -1) ** 2, axis=1))
        shares.append(float(each.max()) / size)
    # NumPy's maximum, because that of a number and NaN is NaN.
    return NumbersVerdict(len(reference[0]), float(np.max(shares)), TOLERANCES[precision])


_LEAST_SIZE: Final = 1e-12
