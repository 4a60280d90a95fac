"""Pixels with fractions in a job's bytes: 16 bits for each value, as two planes of uint8.

Owns what the two bytes mean, and converts both ways in NumPy; an engine adds `value` to its own graph. Pure:
knows no model and no library.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_STEPS: Final = 128
"""A value is a whole number of 1/128, exact in float32: off by 1/256 at most, where a whole number is off by
1/2."""

_LEAST: Final = -128
"""Values are from -128 up to 384: tf.image.resize clips nothing, and its bicubic kernel gives -72 to 327."""


def split(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Values (..., channels) to uint8 (..., 2 * channels): every channel's high byte, then every low byte."""
    steps = np.rint((pixels - np.float32(_LEAST)) * np.float32(_STEPS))
    numbers = np.clip(steps, 0, np.iinfo(np.uint16).max).astype(np.uint16)
    return np.concatenate([numbers >> 8, numbers & 0xFF], axis=-1).astype(np.uint8)


def joined(planes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of split's planes, (..., channels)."""
    high, low = np.split(planes.astype(np.float32), 2, axis=-1)
    return np.asarray(value(high, low), np.float32)


def value(high: Any, low: Any) -> Any:  # noqa: ANN401 - tensors of any runtime
    """The values of the two bytes, as tensors of float32.

    The largest part comes first, so that 16-bit floats round only the sum.
    """
    # Arrays: OpenVINO takes a scalar of 2.0 for an integer.
    step, least, fraction = (np.array(number, np.float32) for number in (256 / _STEPS, _LEAST, 1 / _STEPS))
    return (high * step + least) + low * fraction


def rounded(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The values of split's planes as whole pixels, for what takes no others."""
    return np.clip(np.rint(joined(planes)), 0, 255).astype(np.uint8)
