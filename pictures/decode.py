"""From the bytes of an upload to an image, upright, in mode L or RGB.

Owns decoding (Pillow), its bounds and refusals, and orientation; colours.py owns modes, and fit.py makes a
model's input of the image. Knows nothing of HTTP, Redis or models. Never opens a path or a URL, only bytes
that are already here, and never decodes pixels before it has judged the header.
"""

import io
import logging
import struct
import warnings
from dataclasses import dataclass
from enum import Enum
from typing import Final

import simplejpeg
from PIL import Image, UnidentifiedImageError

from broker.errors import ClientError
from pictures import (
    bmp,
    colours,
    confined,
    gif_extensions,
    ico,
    jpeg_scans,
    jpeg_segments,
    orientation,
    png_chunks,
    unsupported_formats,
)

_LOG: Final = logging.getLogger(__name__)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What this process decodes, by Pillow's names; confined.py decodes AVIF, HEIC and TIFF in another."""

WORDS: Final = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

BROKEN: Final = "The picture is broken or cut short: send the whole file, or save it again as JPEG or PNG."

_DAMAGE: Final = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    IndexError,
    KeyError,
    AssertionError,
    struct.error,
)
"""What Pillow's readers are known to raise on broken files (its own fuzzers list them)."""

# The bound on pixels is ours (`max_pixels`, from the header, before decoding), so Pillow's own, which
# warns at 89 and raises at 179 megapixels, must not speak first.
Image.MAX_IMAGE_PIXELS = None

MAX_SIDE: Final = 65_535
"""JPEG's own bound; beyond it a picture is an attack on a decoder's work for each row."""

_SIDEWAYS: Final = (5, 6, 7, 8)
"""EXIF orientations that swap width and height (EXIF 2.32, 4.6.4 A)."""

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientations -> what makes the picture upright."""


class Dct(Enum):
    """With which of libjpeg's inverse transforms a JPEG is decoded."""

    ACCURATE = "islow"  # Pillow's, OpenCV's, most others'
    FAST = "ifast"  # tf.io.decode_jpeg's default: each pixel off by 1 on average, and by up to 8


_COLOUR_SPACES: Final = {"RGB": "RGB", "L": "GRAY"}
"""Pillow's modes of JPEGs -> simplejpeg's; a picture in CMYK is Pillow's to decode."""


class InvalidImage(ClientError):
    """The bytes are not a picture, or a broken one."""

    code = "invalid_image"


class ImageTooLarge(ClientError):
    """The picture has more pixels than the service decodes."""

    code = "too_large"


class UnsupportedFormat(ClientError):
    """The bytes are in a format that the service does not take."""

    code = "unsupported_format"


@dataclass(frozen=True, slots=True)
class Size:
    """How large a picture is needed: the pixels of its short side or, where that is 0, of its long one."""

    shortest: int = 0
    longest: int = 0


WHOLE: Final = Size(shortest=MAX_SIDE)

_MIRRORED_X: Final = (2, 3, 6, 7)
_MIRRORED_Y: Final = (3, 4, 7, 8)
"""EXIF orientations after which the first column, or row, is what was stored as the last."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """A picture, upright, in mode L or RGB, decoded whole or `factor` times smaller on both sides.

    A pixel at the right or lower edge may then lie partly outside the picture; `left` and `top` are the parts
    of a pixel by which one at the left or upper edge does, after a turn.
    """

    image: Image.Image
    whole: tuple[int, int]
    """Its (width, height) before that."""
    factor: int = 1
    left: float = 0.0
    top: float = 0.0


def decode(upload: bytes, *, max_pixels: int) -> Image.Image:
    """Return the upload's first frame, upright, in mode L or RGB. Raises as `decode_near` does."""
    return decode_near(upload, max_pixels=max_pixels, needed=WHOLE).image


def decode_at_most(upload: bytes, *, longest: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """As `decode`, in RGB and with sides of at most `longest`; with the (width, height) of the whole picture.

    A JPEG is decoded near that size, so that 50 megapixels take 40 MB here and not 150.
    """
    decoded = decode_near(upload, max_pixels=max_pixels, needed=Size(longest=longest))
    image = decoded.image
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return image if image.mode == "RGB" else image.convert("RGB"), decoded.whole


def decode_near(upload: bytes, *, max_pixels: int, needed: Size, dct: Dct = Dct.ACCURATE) -> DecodedPicture:
    """The upload's first frame, at least as large as is `needed`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still `needed`: its inverse DCT then makes
    that many fewer pixels, and the resize after it reads fewer.

    Raises InvalidImage, ImageTooLarge (judged from the header, before pixels are decoded) or
    UnsupportedFormat; each message says what to do.
    """
    if not upload:
        raise InvalidImage("The upload is empty: send the bytes of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
            if upload.startswith(jpeg_segments.SIGNATURE):
                jpeg, exif = jpeg_segments.without_extras(upload)
                image, whole = _by_pillow(jpeg, max_pixels=max_pixels, needed=needed, dct=dct)
                if exif:
                    image.info["exif"] = exif
            else:
                image, whole = _other_format(upload, max_pixels=max_pixels, needed=needed)
            return _upright(image, whole)
    except UnidentifiedImageError:
        raise _unidentified(upload) from None
    except _DAMAGE as error:
        _LOG.debug("A picture is broken: %r", error)
        raise InvalidImage(BROKEN) from None
    except (MemoryError, OverflowError, ArithmeticError, AttributeError, NotImplementedError) as error:
        _LOG.debug("A picture could not be decoded: %r", error)
        raise InvalidImage(
            "The picture could not be decoded; save it again as JPEG or PNG, or make it smaller."
        ) from None


def _other_format(upload: bytes, *, max_pixels: int, needed: Size) -> tuple[Image.Image, tuple[int, int]]:
    """An upload that is not a JPEG, decoded as it is stored, and the (width, height) of the whole."""
    if confined.is_for(upload):
        return _confined(upload, max_pixels=max_pixels, needed=needed)
    if upload.startswith(ico.SIGNATURES) and (icon := ico.largest(upload)) is not None:
        if icon.size is not None:
            _check_size(icon.size, max_pixels)
            image = Image.open(io.BytesIO(icon.data), formats=("ICO",))
            image.load()
            return image, image.size
        upload = icon.data
    if upload.startswith(png_chunks.SIGNATURE):
        upload = png_chunks.without_extras(upload)
    if upload.startswith(gif_extensions.SIGNATURE):
        gif_extensions.check(upload)
    other = bmp.header(upload)
    if other and other.has_runs:
        return _by_bmp(upload, other, max_pixels)
    try:
        return _by_pillow(upload, max_pixels=max_pixels, needed=needed)
    except _DAMAGE:
        if other is None:
            raise
    return _by_bmp(upload, other, max_pixels)


def _by_bmp(upload: bytes, header: bmp.Header, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    size = (header.width, header.height)
    _check_size(size, max_pixels)
    return bmp.read(upload, header), size


def _by_pillow(
    upload: bytes, *, max_pixels: int, needed: Size, dct: Dct = Dct.ACCURATE
) -> tuple[Image.Image, tuple[int, int]]:
    image = Image.open(io.BytesIO(upload), formats=FORMATS)
    _check_size(image.size, max_pixels)
    width, height = whole = image.size
    if (
        image.format == "JPEG"
        and upload.count(jpeg_scans.SCAN) > jpeg_scans.FEW
        and jpeg_scans.too_many(upload, pixels=width * height, max_pixels=max_pixels)
    ):
        raise InvalidImage("The JPEG has too many scans for its size; save it again.")
    if dct is Dct.FAST and image.format == "JPEG" and image.mode in _COLOUR_SPACES:
        return _by_fast_dct(upload, image), whole
    alpha = None
    if image.format == "PNG" and "transparency" in image.info:
        alpha = colours.colour_key(image, upload)
    side = needed.shortest or -(-needed.longest * min(whole) // max(whole))
    image.draft(None, (side, side))
    image.load()
    if alpha is not None:
        image.putalpha(alpha)
    return image, whole


def _by_fast_dct(upload: bytes, header: Image.Image) -> Image.Image:
    pixels = simplejpeg.decode_jpeg(upload, _COLOUR_SPACES[header.mode], fastdct=True)
    image = Image.fromarray(pixels.reshape(pixels.shape[:2] if header.mode == "L" else pixels.shape))
    image.info = header.info
    return image


def _confined(upload: bytes, *, max_pixels: int, needed: Size) -> tuple[Image.Image, tuple[int, int]]:
    bounds = confined.Bounds(max_pixels, MAX_SIDE, needed.shortest, needed.longest)
    try:
        return confined.decode(upload, bounds)
    except confined.TooLarge as error:
        raise _too_large(error.size, max_pixels) from None
    except confined.FaxCoding as coding:
        raise UnsupportedFormat(f"A TIFF in {coding} coding is not taken; send it as PNG.") from None
    except confined.Failed as error:
        _LOG.debug("A picture could not be decoded: %s", error)
        raise InvalidImage(BROKEN) from None


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels or max(size) > MAX_SIDE:
        raise _too_large(size, max_pixels)


def _too_large(size: tuple[int, int], max_pixels: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"The picture has {size[0]} x {size[1]} pixels; at most {max_pixels} are taken, "
        f"and {MAX_SIDE} a side. Make it smaller and send it again."
    )


def _upright(image: Image.Image, whole: tuple[int, int]) -> DecodedPicture:
    """Turn it as its EXIF orientation says, and show its colours as people see them."""
    width, height = whole
    sizes = ((-(-width // each), -(-height // each)) for each in range(1, max(whole)))
    factor = next((each for each, size in enumerate(sizes, 1) if size == image.size), 1)
    exif = image.info.get("exif")
    turned = orientation.stored(exif) if exif else orientation.UPRIGHT
    if turned in _TURNS:  # else a copy would be made: 0.3 ms for 720p
        image = image.transpose(_TURNS[turned])
    if turned in _SIDEWAYS:
        whole = (height, width)
    if image.mode not in ("L", "RGB") or "icc_profile" in image.info or "transparency" in image.info:
        image = colours.as_people_see(image)
    return DecodedPicture(
        image,
        whole,
        factor,
        image.width - whole[0] / factor if turned in _MIRRORED_X else 0.0,
        image.height - whole[1] / factor if turned in _MIRRORED_Y else 0.0,
    )


def _unidentified(upload: bytes) -> ClientError:
    """Tell a picture in a format we refuse from what is no picture at all, by its first bytes only."""
    Image.init()
    prefix = upload[:16].ljust(16, b"\0")  # some of Pillow's tests take four bytes for granted
    known = {name for name, (_, accept) in Image.OPEN.items() if accept and accept(prefix) is True}
    if known & set(FORMATS):
        return InvalidImage(BROKEN)
    name = unsupported_formats.name(upload, sorted(known - {"AVIF", "HEIF"}))
    if name:
        return UnsupportedFormat(f"This is {name}, which is not taken; convert it to {WORDS}.")
    return InvalidImage(f"The upload is not a picture; send {WORDS}.")
