"""A model's normalisation in numbers: the order of the channels, the mean and the deviation.

Owns those numbers, and normalising with NumPy. Pure: knows no runtime.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import Normalisation, NormalisationName
from pictures import fixed_point

_NAMED: Final[dict[NormalisationName, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "none": ((0.0,), (1.0,)),
    "unit": ((0.0,), (255.0,)),
    # As keras.applications.imagenet_utils.preprocess_input has the three.
    "tf": ((127.5,), (127.5,)),
    "torch": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ((103.939, 116.779, 123.68), (1.0,)),
}


@dataclass(frozen=True, slots=True)
class ChannelNumbers:
    """(pixel - mean) / std: a mean and a deviation for each channel, in the network's order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool
    keeps_fractions: bool = False

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 (N, *InputSpec.shape) to float32 (N, height, width, channels)."""
        return self.of_pixels(fixed_point.joined(batch) if self.keeps_fractions else batch)

    def of_pixels(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """The same for pixels of (..., channels), 0 to 255."""
        ordered = pixels[..., ::-1] if self.is_bgr else pixels
        numbers = (ordered.astype(np.float64) - self.mean) / self.std
        return numbers.astype(np.float32)


_NEAR: Final = 0.02
"""The difference, as a share of the span, within which two normalisations are the same: 127 and 128 for
127.5."""


def every_byte(channels: int) -> NDArray[np.uint8]:
    """Every byte in each channel, in another order in each: (1, 1, 256, channels)."""
    ramp = np.arange(256)
    columns = [(ramp * (2 * channel + 1) + 80 * channel) % 256 for channel in range(channels)]
    return np.stack(columns, axis=1)[None, None].astype(np.uint8)


def is_same(numbers: NDArray[np.float32], other: NDArray[np.float64]) -> bool:
    """Whether two normalisations of the same pixels give the same numbers."""
    return bool(np.abs(numbers - other).max() <= _NEAR * np.ptp(other))


def pixels(spec: ModelSpec, batch: NDArray[np.uint8]) -> NDArray[Any]:
    """Uint8 (N, *InputSpec.shape) as pixels (N, height, width, channels): float32 if they keep fractions."""
    return fixed_point.joined(batch) if spec.input.keeps_fractions else batch


def of(spec: ModelSpec) -> ChannelNumbers:
    """The numbers of a model."""
    normalise = spec.normalise
    table = (normalise.mean, normalise.std) if isinstance(normalise, Normalisation) else _NAMED[normalise]
    channels = spec.input.channels
    mean, std = (numbers * channels if len(numbers) == 1 else numbers for numbers in table)
    is_bgr = spec.order == "bgr" or normalise == "caffe"
    return ChannelNumbers(mean, std, is_bgr, keeps_fractions=spec.input.keeps_fractions)
