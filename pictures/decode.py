"""From the bytes of an upload to an image, upright, in mode L or RGB.

Owns decoding (Pillow), its bounds and refusals, orientation and colour modes; fit.py makes a model's input of
the image. Knows nothing of HTTP, Redis or models. Never opens a path or a URL, only bytes that are already
here, and never decodes pixels before it has judged the header.
"""

import io
import struct
import warnings
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from broker.errors import ClientError
from pictures import jpeg_scans

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# The bound on pixels is ours (`max_pixels`, from the header, before decoding), so Pillow's own, which
# warns at 89 and raises at 179 megapixels, must not speak first.
Image.MAX_IMAGE_PIXELS = None

MAX_SIDE: Final = 65_535
"""JPEG's own bound; beyond it a picture is an attack on a decoder's work for each row."""

_SIDEWAYS: Final = (5, 6, 7, 8)
"""EXIF orientations that swap width and height (EXIF 2.32, 4.6.4 A)."""

_FAX: Final = ("group3", "group4", "tiff_ccitt")
"""Pillow's names of TIFF's compressions 3, 4 and 2 (ITU-T T.4 and T.6)."""


class InvalidImage(ClientError):
    """The bytes are not a picture, or a broken one."""

    code = "invalid_image"


class ImageTooLarge(ClientError):
    """The picture has more pixels than the service decodes."""

    code = "too_large"


class UnsupportedFormat(ClientError):
    """The bytes are in a format that the service does not take."""

    code = "unsupported_format"


def decode(upload: bytes, *, max_pixels: int) -> Image.Image:
    """Return the upload's first frame, upright, in mode L or RGB. Raises as `decode_near` does."""
    return decode_near(upload, max_pixels=max_pixels, needed=lambda _: max_pixels)[0]


def decode_at_most(upload: bytes, *, longest: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]]:
    """As `decode`, in RGB and with sides of at most `longest`; with the (width, height) of the whole picture.

    A JPEG is decoded near that size, so that 50 megapixels take 40 MB here and not 150.
    """

    def needed(size: tuple[int, int]) -> int:
        return min(max_pixels, -(-longest * min(size) // max(size)))

    image, original_size = decode_near(upload, max_pixels=max_pixels, needed=needed)
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return image if image.mode == "RGB" else image.convert("RGB"), original_size


def decode_near(
    upload: bytes, *, max_pixels: int, needed: Callable[[tuple[int, int]], int]
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture, and the (width, height) that it has upright and whole.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides keep `needed(size)` pixels: its inverse
    DCT then makes that many fewer pixels, and the resize after it reads fewer.

    Raises InvalidImage, ImageTooLarge (judged from the header, before pixels are decoded) or
    UnsupportedFormat; each message says what to do.
    """
    if not upload:
        raise InvalidImage("The upload is empty: send the bytes of a picture.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; the pixels decide
            image = Image.open(io.BytesIO(upload), formats=FORMATS)
            width, height = image.size
            if width * height > max_pixels or max(image.size) > MAX_SIDE:
                raise ImageTooLarge(
                    f"The picture has {width} x {height} pixels; at most {max_pixels} are taken, "
                    f"and {MAX_SIDE} a side. Make it smaller and send it again."
                )
            _refuse_fax(image)
            if image.format in jpeg_scans.FORMATS and jpeg_scans.too_many(
                upload, pixels=width * height, max_pixels=max_pixels
            ):
                raise InvalidImage("The JPEG has too many scans; save it again.")
            image.draft(None, (needed(image.size),) * 2)
            image.load()
            is_turned = _turn_upright(image)
            return _as_l_or_rgb(image), (height, width) if is_turned else (width, height)
    except UnidentifiedImageError:
        raise _unidentified(upload) from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError) as error:
        # What Pillow's readers are known to raise on broken files (its own fuzzers list them).
        raise InvalidImage(f"The picture is broken or cut short ({error}).") from None
    except (MemoryError, OverflowError, ArithmeticError, AttributeError, NotImplementedError) as error:
        raise InvalidImage(f"The picture could not be decoded ({type(error).__name__}).") from None


def _refuse_fax(image: Image.Image) -> None:
    """Raise UnsupportedFormat for a TIFF in a fax coding, before its pixels are decoded.

    For each broken row of one libtiff writes a line to the log: 622 bytes made 123 MB of log in 23 s.
    """
    compression = str(image.info.get("compression", "")) if image.format == "TIFF" else ""
    if compression in _FAX:
        raise UnsupportedFormat(f"A TIFF in {compression} coding is not taken; send it as PNG.")


def _turn_upright(image: Image.Image) -> bool:
    """Turn it as its EXIF orientation says, in place. Returns whether its sides changed places."""
    size = image.size
    try:
        is_sideways = image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        # In place: a copy of an upright picture would be made else (0.3 ms for 720p).
        ImageOps.exif_transpose(image, in_place=True)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        return image.size != size  # the pixels are sound, what is written about them is not
    return is_sideways


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
