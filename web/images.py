"""From the bytes of an upload to the uint8 array that a model takes.

Owns decoding (Pillow), orientation, colour modes and fitting. Knows nothing of HTTP, Redis or
models beyond the size, the channels and the fit that a card names. Never opens a path or a URL:
only bytes that are already here, and never decodes pixels before the header was judged.
"""

import io
import math
import struct
import warnings
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from broker.errors import ClientError
from broker.messages import Fit, InputSpec

_Number = TypeVar("_Number", bound=np.generic)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# The bound on pixels is ours (`max_pixels`, from the header, before decoding), so Pillow's own, which
# warns at 89 and raises at 179 megapixels, must not speak first.
Image.MAX_IMAGE_PIXELS = None

# A drawing is looked for on a copy whose long side is at most this: ample for a 20-pixel digit, and
# it keeps the search under a millisecond whatever was uploaded.
_INK_SEARCH_SIDE: Final = 280
# The border's pixels this near (of 255) to their median are paper, more or less lit; others are ink that
# touches the border.
_INK_PAPER_SPREAD: Final = 48
# What counts as ink: this share of the strongest contrast against the paper. Higher cuts off the faint parts
# of a stroke, lower lets in JPEG's rings (of 4000 redrawn digits 98.0 % were read at 0.3, 98.5 % at 0.15).
_INK_SHARE: Final = 0.18
# From this quantile of its ink on a drawing is white: else the one spot where two thin strokes cross would
# be, and the strokes grey. MNIST's own digits change by less than one level on average.
_INK_FULL_QUANTILE: Final = 0.75
# Below this contrast (of 255) there is no drawing, only the noise of an empty page.
_INK_MIN_CONTRAST: Final = 16
# MNIST fits a digit into 20 of 28 pixels and centres it by mass (LeCun et al. 1998, section III.A).
_INK_BOX_SHARE: Final = 20 / 28


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
class Prepared:
    """A picture that fits a model: `pixels` is uint8 (height, width, channels), in C order.

    `original_size` is (width, height) of the picture as people see it, after its EXIF orientation.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


def prepare(upload: bytes, spec: InputSpec, *, max_pixels: int) -> Prepared:
    """Decode `upload` and fit it to `spec`.

    Raises InvalidImage, ImageTooLarge (judged from the header, before pixels are decoded) or
    UnsupportedFormat; each message says what to do.
    """
    image = decode(upload, max_pixels=max_pixels)
    return Prepared(fit(image, spec), image.size)


def decode(upload: bytes, *, max_pixels: int) -> Image.Image:
    """Return the upload's first frame, upright, in mode L or RGB. Raises as `prepare` does."""
    if not upload:
        raise InvalidImage("The upload is empty: send the bytes of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
            image = Image.open(io.BytesIO(upload), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels:
                raise ImageTooLarge(
                    f"The picture has {width} x {height} pixels; at most {max_pixels} are taken. "
                    "Make it smaller and send it again."
                )
            image.load()
            return _as_l_or_rgb(_upright(image))
    except UnidentifiedImageError:
        raise _unidentified(upload) from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError) as error:
        # What Pillow's readers are known to raise on broken files (its own fuzzers list them).
        raise InvalidImage(f"The picture is broken or cut short ({error}).") from None
    except (MemoryError, OverflowError, ArithmeticError, AttributeError, NotImplementedError) as error:
        raise InvalidImage(f"The picture could not be decoded ({type(error).__name__}).") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return image  # the pixels are sound, what is written about them is not


def fit(image: Image.Image, spec: InputSpec) -> NDArray[np.uint8]:
    """Return `image` (mode L or RGB) as uint8 (height, width, channels) in the way `spec.fit` names."""
    mode = "L" if spec.channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    target = (spec.width, spec.height)
    match spec.fit:
        case Fit.STRETCH:
            fitted = image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
        case Fit.CROP:
            fitted = ImageOps.fit(image, target, Image.Resampling.BICUBIC)
        case Fit.PAD:
            fitted = ImageOps.pad(image, target, Image.Resampling.BICUBIC, color=_border_colour(image))
        case Fit.INK:
            fitted = _fit_ink(image, target)
    pixels = np.asarray(fitted, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(spec.height, spec.width, spec.channels))


def _unidentified(upload: bytes) -> ClientError:
    """Tell a picture in a format we refuse from what is no picture at all, by its first bytes only."""
    Image.init()
    prefix = upload[:16].ljust(16, b"\0")  # some of Pillow's tests take four bytes for granted
    known = {name for name, (_, accept) in Image.OPEN.items() if accept and accept(prefix) is True}
    if known & set(FORMATS):
        return InvalidImage("The picture is broken or cut short (its header can't be read).")
    if known or prefix[4:8] == b"ftyp" or prefix.lstrip().startswith((b"<svg", b"<?xml", b"%PDF")):
        return UnsupportedFormat(f"This format is not taken; send one of {', '.join(FORMATS)}.")
    return InvalidImage(f"The upload is not a picture; send one of {', '.join(FORMATS)}.")


def _as_l_or_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow's to L or RGB: 16 and 32 bits scaled, transparency laid on white paper."""
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_to_8_bits(image)
    if image.mode in ("1", "LAB", "HSV", "YCbCr", "CMYK"):
        return image.convert("L" if image.mode == "1" else "RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A"))
        return paper
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: 16-bit values by their upper byte; wider or real ones by their range."""
    raw = np.asarray(image)
    if raw.dtype.kind == "u" or (raw.dtype.kind == "i" and raw.min() >= 0 and 255 < raw.max() <= 65535):
        return Image.fromarray((raw >> 8).astype(np.uint8))
    values = np.nan_to_num(raw.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 255 and image.mode != "F":
        return Image.fromarray(values.astype(np.uint8))
    span = high - low or 1.0
    return Image.fromarray(((values - low) * (255 / span)).round().astype(np.uint8))


def _border(pixels: NDArray[_Number]) -> NDArray[_Number]:
    """The outermost pixels, as (n, ...): on most pictures of one thing they show the background."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _border_colour(image: Image.Image) -> tuple[int, ...]:
    median = np.median(_border(np.asarray(image, dtype=np.uint8)), axis=0)
    return tuple(int(value) for value in np.atleast_1d(median))


def _fit_ink(image: Image.Image, target: tuple[int, int]) -> Image.Image:
    """Find the drawing and place it as MNIST does: light on black, 20/28 of the frame, centred by mass.

    Whatever differs most from the paper is the ink, darker or lighter; a picture out of MNIST comes back
    as it is, but for its brightness. Raises InvalidImage for an even page: a network would name something.
    """
    frame = Image.new("L", target)
    ink = _ink(image if image.mode == "L" else image.convert("L"))
    if ink.max() < _INK_MIN_CONTRAST:
        raise InvalidImage("Nothing is drawn on the picture: strokes must stand out from their paper.")
    ink = _boxed(ink)
    scale = _INK_BOX_SHARE * min(target) / max(ink.shape)
    width, height = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    drawing = np.asarray(Image.fromarray(ink).resize((width, height), resample))
    strokes = np.sort(drawing[drawing > drawing.max() * _INK_SHARE])
    full = float(strokes[int(strokes.size * _INK_FULL_QUANTILE)])
    drawing = np.clip(drawing * (255 / full), 0, 255)
    centre_x = drawing.sum(axis=0) @ np.arange(width) / drawing.sum()
    centre_y = drawing.sum(axis=1) @ np.arange(height) / drawing.sum()
    left = min(max(round(target[0] / 2 - centre_x), 0), target[0] - width)
    top = min(max(round(target[1] / 2 - centre_y), 0), target[1] - height)
    frame.paste(Image.fromarray(drawing.round().astype(np.uint8)), (left, top))
    return frame


def _ink(grey: Image.Image) -> NDArray[np.float32]:
    """How far each pixel of a small copy is from the paper, 0 to 255, and 0 within the paper's noise."""
    copy = grey.reduce(max(1, math.ceil(max(grey.size) / _INK_SEARCH_SIDE)))
    pixels = np.asarray(copy, dtype=np.float32)
    depth = pixels - _paper(pixels)
    if depth.max() < -depth.min():
        depth = -depth
    noise = 6 * float(np.median(np.abs(_border(depth))))  # four standard deviations
    return np.where(depth > max(noise, 1), depth, np.float32(0))


def _paper(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The paper's brightness everywhere: a plane through the border's, for a lamp lights it unevenly."""
    height, width = pixels.shape
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    border = _border(pixels)
    is_paper = np.abs(border - np.sort(border)[border.size // 2]) < _INK_PAPER_SPREAD
    terms = np.stack([np.ones_like(border), _border(down), _border(across)], axis=1)
    level, slope_down, slope_across = np.linalg.lstsq(terms[is_paper], border[is_paper])[0]
    plane: NDArray[np.float64] = level + slope_down * down + slope_across * across
    return plane.astype(np.float32)


def _boxed(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of `ink` that its strokes span. A pixel with no ink beside it is a speck, not a stroke."""
    inked = np.pad(ink > ink.max() * _INK_SHARE, 1)
    beside = inked[1:-1, :-2] | inked[1:-1, 2:] | inked[:-2, 1:-1] | inked[2:, 1:-1]
    strokes = inked[1:-1, 1:-1] & beside
    rows, columns = np.nonzero(strokes.any(axis=1))[0], np.nonzero(strokes.any(axis=0))[0]
    if not rows.size:
        return ink
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
