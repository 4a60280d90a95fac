"""A model's normalisation in numbers: the order of the channels, the mean and the deviation.

Owns those numbers, and normalising with NumPy. Pure: knows no runtime.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import Normalisation, NormalisationName

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

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 (N, height, width, channels) to float32."""
        ordered = batch[..., ::-1] if self.is_bgr else batch
        numbers = (ordered.astype(np.float64) - self.mean) / self.std
        return numbers.astype(np.float32)


def of(spec: ModelSpec) -> ChannelNumbers:
    """The numbers of a model."""
    normalise = spec.normalise
    table = (normalise.mean, normalise.std) if isinstance(normalise, Normalisation) else _NAMED[normalise]
    channels = spec.input.channels
    mean, std = (numbers * channels if len(numbers) == 1 else numbers for numbers in table)
    return ChannelNumbers(mean, std, is_bgr=spec.order == "bgr" or normalise == "caffe")
