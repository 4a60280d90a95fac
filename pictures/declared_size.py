"""How large a picture says it is, from its header, for bounding what the pictures of a request are together.

Owns the place of width and height in each format. Decodes nothing, and trusts nothing: decode.py judges each
picture again.
"""

import io
import struct
import warnings
from typing import Final

from PIL import Image

from pictures import bmp, confined, gif_extensions, ico, jpeg_segments, png_chunks

Size = tuple[int, int]

_HEIF_HEAD: Final = 64 * 1024
"""Where a HEIC's or an AVIF's properties are looked for; they begin the file."""

_TIFF_LAYOUT: Final = {42: ("I", 4, "H", "HHI", 12), 43: ("Q", 8, "Q", "HHQ", 20)}
"""TIFF's version -> its offsets' type, where the first is, the type of a count, an entry, its bytes."""
_TIFF_SIDES: Final = (256, 257)
_TIFF_TYPES: Final = {3: "H", 4: "I", 16: "Q"}


def of(upload: bytes) -> Size | None:
    """(width, height) of an upload; None where its header does not tell.

    A file that is no picture, or broken, has no pixels: (0, 0).
    """
    try:
        return _size(upload)
    except (struct.error, OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError):
        return None if confined.is_for(upload) else (0, 0)


def _size(upload: bytes) -> Size | None:
    if confined.is_for(upload):
        return _heif(upload) if upload[4:8] == b"ftyp" else _tiff(upload)
    if upload.startswith(ico.SIGNATURES) and (icon := ico.largest(upload)) is not None:
        return icon.size or _size(icon.data)
    if upload.startswith(png_chunks.SIGNATURE):
        width, height = struct.unpack_from(">II", upload, 16)
        return width, height
    if upload.startswith(gif_extensions.SIGNATURE):
        width, height = struct.unpack_from("<HH", upload, 6)
        return width, height
    if upload.startswith(b"RIFF") and upload[8:12] == b"WEBP":
        return _webp(upload)
    if (header := bmp.header(upload)) is not None:
        return header.width, abs(header.height)
    if upload.startswith(jpeg_segments.SIGNATURE):
        upload, _ = jpeg_segments.without_extras(upload)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(upload), formats=("JPEG", "BMP")) as image:
            return image.size


def _webp(upload: bytes) -> Size:
    if upload[12:16] == b"VP8X":
        return (
            int.from_bytes(upload[24:27], "little") + 1,
            int.from_bytes(upload[27:30], "little") + 1,
        )
    if upload[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", upload, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", upload, 26)
    return width & 0x3FFF, height & 0x3FFF


def _heif(upload: bytes) -> Size | None:
    """The largest of its images: one of tiles, or a preview, has smaller ones beside it."""
    sizes = []
    at = upload.find(b"ispe", 0, _HEIF_HEAD)
    while at >= 0:
        width, height = struct.unpack_from(">II", upload, at + 8)
        sizes.append((width, height))
        at = upload.find(b"ispe", at + 4, _HEIF_HEAD)
    return max(sizes, key=lambda size: size[0] * size[1], default=None)


def _tiff(upload: bytes) -> Size | None:
    order = "<" if upload.startswith(b"II") else ">"
    (version,) = struct.unpack_from(order + "H", upload, 2)
    if version not in _TIFF_LAYOUT:
        return None
    offset, at, count, entry, length = _TIFF_LAYOUT[version]
    (directory,) = struct.unpack_from(order + offset, upload, at)
    (entries,) = struct.unpack_from(order + count, upload, directory)
    directory += struct.calcsize(order + count)
    sides: dict[int, int] = {}
    for number in range(min(entries, 4096)):
        place = directory + number * length
        tag, kind, _ = struct.unpack_from(order + entry, upload, place)
        if tag in _TIFF_SIDES and kind in _TIFF_TYPES:
            value = struct.unpack_from(
                order + _TIFF_TYPES[kind], upload, place + struct.calcsize(order + entry)
            )
            sides[tag] = value[0]
    return (sides[256], sides[257]) if len(sides) == len(_TIFF_SIDES) else None
