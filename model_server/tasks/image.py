"""Image: a network's output as a picture: enlarged, cleaned, coloured, or of its depths.

Owns the way from numbers to pixels, and what else its task is. Knows no runtime and no Redis; the web tier
makes the PNG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.messages import Pixels, TaskResult
from model_server.engines.check import plain_numbers
from model_server.tasks.numbers import finite
from model_server.tasks.task import ReadOptions, Task, table_of

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs

LONGEST: Final = 4096
"""Pixels of a side, at most, as for inputs."""

MOST_PIXELS: Final = 2**22
"""Pixels in all: 17 MB of a result in Redis, where results are kept for RESULT_TTL_S."""

_SMALLEST: Final = 8
"""A map with smaller sides is hardly a picture: `hint` does not suggest it."""

_SCALES: Final = {"unit": (255.0, 0.0), "tf": (127.5, 127.5), "bytes": (1.0, 0.0)}
"""Factor and offset to 0..255."""


class ImageTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[image]: what the numbers of the output mean."""

    range: Literal["unit", "tf", "bytes"] = "unit"
    """0..1, -1..1 or 0..255; what is beyond is cut off."""
    order: Literal["rgb", "bgr"] = "rgb"


class ImageTask(Task):
    """What an image becomes: a picture of any size."""

    name = "image"
    noun = "a model that makes pictures"
    table = ImageTable
    has_labels = False
    gives_probabilities = False
    is_exact = True

    def read(self, outputs: Outputs, spec: ModelSpec, _options: ReadOptions, /) -> TaskResult:
        """The picture, as pixels."""
        table = table_of(spec.options, ImageTable)
        factor, offset = _SCALES[table.range]
        numbers = np.rint(finite(_channels_last(outputs[0])) * factor + offset).clip(0, 255)
        pixels = numbers.astype(np.uint8)
        if table.order == "bgr":
            pixels = pixels[..., ::-1]
        return TaskResult(image=Pixels(pixels.shape, np.ascontiguousarray(pixels).tobytes()))

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> plain_numbers.NumbersVerdict:
        """Differences as a share of the numbers' size."""
        return plain_numbers.compare(reference, outputs, precision)

    def misfit(self, _spec: ModelSpec, shapes: list[tuple[int, ...]], /) -> str:
        """A picture has two sides, and one or three channels before or after them."""
        if _is_picture(shapes[0]):
            return ""
        return (
            f"the network's output for a picture is {shapes[0]}, but a picture is (height, width), (height, "
            f"width, channels) or (channels, height, width) with 1 or 3 channels, sides up to {LONGEST} and "
            f"{MOST_PIXELS:,} pixels"
        )

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """Something with two sides may be a picture."""
        if any(_is_picture(shape) and len(shape) > 1 for shape in shapes):
            return 'If the output is a picture itself, write task = "image", without labels.'
        return ""


def _is_picture(shape: tuple[int, ...]) -> bool:
    if len(shape) == 3:
        if shape[2] in (1, 3):
            shape = shape[:2]
        elif shape[0] in (1, 3):
            shape = shape[1:]
    is_picture = len(shape) == 2 and all(_SMALLEST <= side <= LONGEST for side in shape)
    return is_picture and shape[0] * shape[1] <= MOST_PIXELS


def _channels_last(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """(height, width, channels), from whatever a picture may be."""
    if output.ndim == 2:
        return output[..., None]
    return output if output.shape[2] in (1, 3) else output.transpose(1, 2, 0)
