"""From an image, or the bytes of an upload, to the uint8 array that a model takes.

Owns how an image becomes one of a model's size, and how large it must be decoded for that; decode.py decodes.
Knows of a model the size, the channels and the fit that its card names, and nothing of HTTP or Redis.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from broker.messages import Fit, InputSpec
from pictures import ink
from pictures.decode import InvalidImage, Size, decode_near

_INK_SIDE: Final = 560
"""A drawing is found on a small copy but framed from the picture itself: sharp enough for thin strokes."""


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture that fits a model: `pixels` is uint8 (height, width, channels), in C order.

    `original_size` is (width, height) of the picture as people see it, after its EXIF orientation.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


def prepare(upload: bytes, spec: InputSpec, *, max_pixels: int) -> PreparedPicture:
    """Decode `upload` and fit it to `spec`.

    Raises InvalidImage, ImageTooLarge or UnsupportedFormat, as decode.py says.
    """
    # A JPEG with more pixels than the model needs is decoded smaller.
    side = _INK_SIDE if spec.fit is Fit.INK else max(spec.width, spec.height, spec.resize)
    image, original_size = decode_near(upload, max_pixels=max_pixels, needed=Size(shortest=side))
    return PreparedPicture(fit(image, spec), original_size)


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Return `image` (mode L or RGB) as uint8 (height, width, channels) in the way `spec.fit` names."""
    mode = "L" if spec.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    target = (spec.width, spec.height)
    match spec.fit:
        case Fit.STRETCH:
            fitted = image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
        case Fit.CROP if spec.resize:
            fitted = _resized_centre(image, target, spec.resize)
        case Fit.CROP:
            fitted = ImageOps.fit(image, target, Image.Resampling.BICUBIC)
        case Fit.PAD:
            fitted = ImageOps.pad(image, target, Image.Resampling.BICUBIC, color=_border_colour(image))
        case Fit.INK:
            drawing = ink.placed(image, target)
            if drawing is None:  # a network would name something
                raise InvalidImage(
                    "Nothing is drawn on the picture: strokes must stand out from their paper."
                )
            fitted = drawing
    pixels = np.asarray(fitted, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(spec.height, spec.width, spec.channels))


def _resized_centre(image: Image.Image, target: tuple[int, int], short: int) -> Image.Image:
    """The centre of `image` with its short side resized to `short`: torchvision's Resize, then CenterCrop.

    Only what is kept is made: 65,535 x 1 pixels would be 4 gigapixels else.
    """
    shortest = min(image.size)
    resized = [short if side == shortest else short * side // shortest for side in image.size]
    starts = [round((side - kept) / 2) for side, kept in zip(resized, target, strict=True)]
    scales = [side / after for side, after in zip(image.size, resized, strict=True)]
    left, top = (start * scale for start, scale in zip(starts, scales, strict=True))
    box = (left, top, left + target[0] * scales[0], top + target[1] * scales[1])
    return image.resize(target, Image.Resampling.BICUBIC, box)


def _border_colour(image: Image.Image) -> tuple[int, ...]:
    median = np.median(ink.border(np.asarray(image, dtype=np.uint8)), axis=0)
    return tuple(int(value) for value in np.atleast_1d(median))
