"""From an image, or the bytes of an upload, to the uint8 array that a model takes.

Owns how an image becomes one of a model's size, and how large it must be decoded for that; decode.py decodes.
Knows of a model the size, the channels and the fit that its card names, and nothing of HTTP or Redis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from broker.messages import MEDIAN, Box, Decode, Fit, InputSpec, Library
from pictures import fixed_point, geometry, ink, resample
from pictures.decode import MAX_SIDE, Dct, DecodedPicture, InvalidImage, Size, decode_near
from pictures.resample import Axis

_INK_SIDE: Final = 560
"""A drawing is found on a small copy but framed from the picture itself: sharp enough for thin strokes."""

_SPARE: Final = 1.5
"""A JPEG is decoded with so many times the pixels a side that the model takes. Photos for 96 x 96: pixels off
by 0.4 on average (1.2 without) and 8 at most (20), in 2.1 ms (1.8). Twice as many: 0.4 in 2.4 ms."""

_INPUTS: Final = 256
"""Inputs of models whose needs are remembered."""

_CUT_MOST: Final = 4_000_000
"""Pixels that are made although most are cut off again: 20 ms. A thin picture would be gigapixels."""


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """A picture that fits a model: `pixels` is uint8 of InputSpec.shape, in C order.

    `original_size` is (width, height) of the picture as people see it, after its EXIF orientation.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """A box on a picture as people see it, inside of it, and the input that it shall fit."""

    box: Box
    spec: InputSpec


def prepare(upload: bytes, spec: InputSpec, *, max_pixels: int) -> PreparedPicture:
    """Decode `upload` and fit it to `spec`.

    Raises InvalidImage, ImageTooLarge or UnsupportedFormat, as decode.py says.
    """
    shortest, dct = _needed(spec)
    decoded = decode_near(upload, max_pixels=max_pixels, needed=Size(shortest), dct=dct)
    return PreparedPicture(_fitted(decoded, spec), decoded.whole)


def given(pixels: NDArray[np.uint8], spec: InputSpec) -> PreparedPicture:
    """Pixels that a client has fitted to the model itself: uint8 of InputSpec.network_shape.

    Raises InvalidImage where they have another shape.
    """
    if pixels.shape != spec.network_shape:
        height, width, channels = spec.network_shape
        raise InvalidImage(
            f"The pixels of a picture have the shape {list(pixels.shape)}; the model takes "
            f"[{height}, {width}, {channels}] (height, width, channels). Send the encoded picture instead, "
            "and the service fits it."
        )
    if spec.keeps_fractions:
        pixels = fixed_point.split(pixels.astype(np.float32))
    return PreparedPicture(np.ascontiguousarray(pixels), (spec.width, spec.height))


class PartCutter:
    """Cuts parts out of an upload, of that (width, height), and fits each as a picture of its own.

    The upload is decoded once, at the first, and large enough for all of `parts`.
    """

    def __init__(
        self, upload: bytes, parts: Sequence[Part], *, original_size: tuple[int, int], max_pixels: int
    ) -> None:
        self._upload = upload
        self._max_pixels = max_pixels
        enlarged = max(_needed(part.spec)[0] / min(part.box[2:]) for part in parts)
        self._needed = Size(shortest=min(MAX_SIDE, math.ceil(min(original_size) * enlarged)))
        self._decoded: dict[Dct, DecodedPicture] = {}
        """Nearly always all want the same."""

    def cut(self, part: Part) -> PreparedPicture:
        """One of the parts. Raises what `prepare` does."""
        _, dct = _needed(part.spec)
        if dct not in self._decoded:
            self._decoded[dct] = decode_near(
                self._upload, max_pixels=self._max_pixels, needed=self._needed, dct=dct
            )
        return _cut(self._decoded[dct], part)


def _cut(decoded: DecodedPicture, part: Part) -> PreparedPicture:
    x, y, width, height = part.box
    factor = decoded.factor
    left, top = x / factor + decoded.left, y / factor + decoded.top
    # Whole pixels, of which the first may lie partly outside of the part.
    area = (
        math.floor(left),
        math.floor(top),
        min(decoded.image.width, math.ceil(left + width / factor)),
        min(decoded.image.height, math.ceil(top + height / factor)),
    )
    of_part = DecodedPicture(decoded.image.crop(area), (width, height), factor, left - area[0], top - area[1])
    return PreparedPicture(_fitted(of_part, part.spec), (width, height))


@lru_cache(_INPUTS)
def _needed(spec: InputSpec) -> tuple[int, Dct]:
    """How a JPEG is decoded: the pixels of its short side from which on it is large enough; its transform.

    With MAX_SIDE it is decoded whole.
    """
    if spec.decode is Decode.EXACT:
        return MAX_SIDE, Dct.FAST if spec.library is Library.TENSORFLOW else Dct.ACCURATE
    if spec.fit is Fit.INK:
        return _INK_SIDE, Dct.ACCURATE
    return math.ceil(_SPARE * max(spec.width, spec.height, spec.resize)), Dct.ACCURATE


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """A whole `image` (mode L or RGB) as uint8 of `spec.shape`, fitted as `spec` says."""
    return _fitted(DecodedPicture(image, image.size), spec)


def _fitted(decoded: DecodedPicture, spec: InputSpec) -> NDArray[np.uint8]:
    mode = "L" if spec.channels == 1 else "RGB"
    image = decoded.image if decoded.image.mode == mode else decoded.image.convert(mode)
    target = (spec.width, spec.height)
    pixels: Image.Image | NDArray[Any] | None
    if spec.fit is Fit.INK:
        pixels = ink.placed(image, target)
        if pixels is None:  # a network would name something
            raise InvalidImage("Nothing is drawn on the picture: strokes must stand out from their paper.")
    elif spec.fit is Fit.PAD:
        pixels = _padded(decoded, image, spec)
    else:
        pixels = _sampled(decoded, image, geometry.place(spec, decoded.whole), (0, 0), target, spec)

    shaped = np.asarray(pixels).reshape(spec.network_shape)
    if spec.keeps_fractions:
        return fixed_point.split(shaped)
    return np.ascontiguousarray(shaped, np.uint8)


def _padded(decoded: DecodedPicture, image: Image.Image, spec: InputSpec) -> NDArray[Any]:
    """All of the picture, with the border's colour around."""
    inner = geometry.contained(spec, decoded.whole)
    left, top = geometry.margins(spec, inner)
    picture = _sampled(decoded, image, geometry.place(spec, decoded.whole), (left, top), inner, spec)
    colour = (spec.border,) * spec.channels
    if spec.border == MEDIAN:
        median = np.median(ink.border(np.asarray(image, dtype=np.uint8)), axis=0)
        colour = tuple(int(value) for value in np.atleast_1d(median))
    padded = np.full(spec.network_shape, colour, picture.dtype)
    padded[top : top + inner[1], left : left + inner[0]] = picture.reshape(inner[1], inner[0], spec.channels)
    return padded


def _sampled(
    decoded: DecodedPicture,
    image: Image.Image,
    place: geometry.Placement,
    start: tuple[int, int],
    size: tuple[int, int],
    spec: InputSpec,
) -> NDArray[Any]:
    """The input's pixels from `start` on, so many as `size` says (each as x, y), read from `image`.

    Places are those of the whole photo, so that a picture that was decoded smaller is cut where the whole is.
    """
    if spec.fit is Fit.CROP and spec.resize and spec.library is Library.PILLOW and decoded.factor == 1:
        whole = round(image.width / place.scale_x), round(image.height / place.scale_y)
        if whole[0] * whole[1] <= max(_CUT_MOST, 2 * size[0] * size[1]):
            corner = round(place.left / place.scale_x), round(place.top / place.scale_y)
            return resample.resized_and_cut(image, whole, corner, size, spec.resample)

    if (
        spec.fit is Fit.CROP
        and not spec.resize
        and spec.library is Library.TENSORFLOW
        and decoded.factor == 1
    ):
        # smart_resize cuts whole pixels first: those around the part count for nothing at its edge.
        first, upper = round(place.left), round(place.top)
        right, bottom = first + round(place.scale_x * size[0]), upper + round(place.scale_y * size[1])
        image = image.crop((first, upper, right, bottom))
        place = geometry.Placement(place.scale_x, place.scale_y, 0.0, 0.0)

    left = (place.left + start[0] * place.scale_x) / decoded.factor + decoded.left
    top = (place.top + start[1] * place.scale_y) / decoded.factor + decoded.top
    x = Axis(left, place.scale_x / decoded.factor, count=size[0], size=image.width)
    y = Axis(top, place.scale_y / decoded.factor, count=size[1], size=image.height)
    if spec.keeps_fractions:
        return resample.with_fractions(image, x, y, spec.resample)
    return resample.resized(image, x, y, spec.resample, spec.library)
