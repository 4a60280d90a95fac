"""A PNG without the chunks that its pixels do not need: text, XMP, animation, times, what an editor left.

Owns which chunks Pillow's decoder sees. Decodes no pixel. Pillow refuses a whole picture for one of these
that is oversized or broken; browsers show it.
"""

import zlib
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_NEEDED: Final = (b"tRNS", b"iCCP", b"eXIf")
"""And all whose names begin with a capital letter (PNG, section 5.4). The first of each kind counts:
3,000 colour profiles in 3 MB took Pillow and this module 5 s."""

_BEFORE_PIXELS: Final = (b"tRNS", b"iCCP")
"""After the first pixels they are out of place, and browsers pass over them."""

_COLOUR_KEY_BYTES: Final = {0: 2, 2: 6}
"""Kinds of colour -> the length of tRNS (PNG, section 11.3.2.1): one value of grey, or three."""

_PALETTE: Final = 3
_COLOUR_TYPE_AT: Final = 25
"""Where the header, which comes first, has the kind of colour."""

_HARMLESS: Final = (b"bKGD", b"hIST", b"sBIT", b"tIME")
"""Pillow does not look into them: a picture with no others is handed on without a copy."""

_END: Final = b"\0\0\0\0IEND\xaeB`\x82"

_CHUNKS: Final = 100_000
"""Chunks that are looked at: 800 MB in pieces of 8 KB, as libpng writes them."""

_MAX_PROFILE_BYTES: Final = 1024 * 1024
"""Of an inflated colour profile; Pillow refuses a picture with more."""


def without_extras(png: bytes) -> bytes:
    """The same picture without its extras; `png` itself where there are none.

    Raises ValueError where it has more chunks than any encoder writes.
    """
    pieces: list[bytes] = []
    seen: set[bytes] = set()
    colours = 0
    begin = at = len(SIGNATURE)
    for _ in range(_CHUNKS):
        if at + 12 > len(png):
            # All of the pixels may be here, and only the end be cut off.
            return b"".join((SIGNATURE, *pieces, png[begin:at], _END)) if at <= len(png) else png
        kind = png[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(png[at : at + 4])
        if kind == b"IEND":
            return b"".join((SIGNATURE, *pieces, png[begin:end])) if pieces else png
        is_kept = kind[:1].isupper() or kind in _HARMLESS
        if kind == b"PLTE":
            colours = (end - at - 12) // 3
        elif kind == b"IDAT":
            seen.update(_BEFORE_PIXELS)
        elif not is_kept and kind not in seen:
            seen.add(kind)
            is_kept = _is_sound(png, kind, at, end, colours)
        if not is_kept:
            pieces.append(png[begin:at])
            begin = end
        at = end
    raise ValueError("more chunks than any encoder writes")


def _is_sound(png: bytes, kind: bytes, at: int, end: int, colours: int) -> bool:
    """Whether the chunk is needed, and will not spoil the picture, whose palette has so many colours."""
    if kind not in _NEEDED or zlib.crc32(memoryview(png)[at + 4 : end - 4]) != int.from_bytes(
        png[end - 4 : end]
    ):
        return False
    if kind == b"tRNS":
        colour_type, length = png[_COLOUR_TYPE_AT], end - at - 12
        if colour_type == _PALETTE:
            return 0 < length <= colours
        return length == _COLOUR_KEY_BYTES.get(colour_type)
    return kind != b"iCCP" or _is_profile(png[at + 8 : end - 4])


def _is_profile(chunk: bytes) -> bool:
    """Whether an iCCP chunk (a name, NUL, the method 0, zlib's stream) holds a profile of bounded size."""
    _, _, packed = chunk.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        return (
            packed[:1] == b"\0" and bool(inflate.decompress(packed[1:], _MAX_PROFILE_BYTES)) and inflate.eof
        )
    except zlib.error:
        return False
