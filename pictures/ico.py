"""Icons and cursors (ICO, CUR): a directory of pictures, of which browsers show the largest.

Owns the choice of that picture and the size that its own header has, for the directory may lie. Decodes
nothing: what it returns is a PNG, or an icon of one picture.
"""

import struct
from dataclasses import dataclass
from typing import Final

from pictures import png_chunks

SIGNATURES: Final = (b"\0\0\1\0", b"\0\0\2\0")
"""Of an icon and of a cursor, which has the place of its tip where an icon has planes and bits."""

_HEADER: Final = struct.Struct("<HHH")
_ENTRY: Final = struct.Struct("<BBBBHHII")
_BITMAP: Final = struct.Struct("<IiiHH")
"""How a BITMAPINFOHEADER begins: size, width, height (of the colours and of the mask), planes, bits."""

_MOST_ENTRIES: Final = 256


@dataclass(frozen=True, slots=True)
class Icon:
    """The picture of an icon that is decoded. `size` is (width, height); None: the PNG says it itself."""

    data: bytes
    size: tuple[int, int] | None


def largest(upload: bytes) -> Icon | None:
    """The largest picture of an icon or a cursor, else None. Raises ValueError where it is broken."""
    if not upload.startswith(SIGNATURES) or len(upload) < _HEADER.size + _ENTRY.size:
        return None
    count = min(_HEADER.unpack_from(upload)[2], _MOST_ENTRIES, (len(upload) - _HEADER.size) // _ENTRY.size)
    best: tuple[tuple[int, int], bytes] | None = None
    for number in range(count):
        width, height, *_, length, at = _ENTRY.unpack_from(upload, _HEADER.size + number * _ENTRY.size)
        data = upload[at : at + length]
        bits = 32 if data.startswith(png_chunks.SIGNATURE) else _bits(data)
        rank = ((width or 256) * (height or 256), bits)  # a side of 256 does not fit into its byte
        if bits and (best is None or rank > best[0]):
            best = rank, data
    if best is None:
        raise ValueError("an icon without a picture")
    data = best[1]
    if data.startswith(png_chunks.SIGNATURE):
        return Icon(data, None)
    _, width, doubled, _, bits = _BITMAP.unpack_from(data)
    size = (width, abs(doubled) // 2)
    if min(size) < 1:
        raise ValueError("an icon's picture without pixels")
    shown = [side if side < 256 else 0 for side in size]
    entry = _ENTRY.pack(*shown, 0, 0, 1, bits, len(data), _HEADER.size + _ENTRY.size)
    return Icon(_HEADER.pack(0, 1, 1) + entry + data, size)


def _bits(data: bytes) -> int:
    """Bits of a pixel of a bitmap; 0: it is none."""
    if len(data) < _BITMAP.size:
        return 0
    size, *_, bits = _BITMAP.unpack_from(data)
    return int(bits) if size == 40 and bits in (1, 4, 8, 16, 24, 32) else 0
