"""How often a JPEG paints over its whole picture, told from its markers before a pixel is decoded.

Owns the bound on that work. Decodes nothing: it goes from marker to marker as libjpeg does, up to the end of
the first picture, for what phones put after that (another picture, a film) may hold any bytes.
"""

import re
from typing import Final

FORMATS: Final = ("JPEG", "MPO")
"""Pillow's names of a JPEG, and of one with others after it."""

MOST: Final = 100
"""Scans of any picture, however small; progressive files have 6 to 15. libtiff has the same bound."""

_PAINTS: Final = 16
"""Scans of a picture of MAX_PIXELS: one of 49 megapixels takes 36 ms, in as few as 75 bytes."""

_SEGMENTS: Final = 4096
"""Markers that are looked at; a picture with its metadata has dozens."""

_MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""None of those that stand alone within a scan; an FF of its data is followed by 00."""

_END, _SCAN, _START = 0xD9, 0xDA, 0xD8


def too_many(jpeg: bytes, *, pixels: int, max_pixels: int) -> bool:
    """Whether decoding a JPEG of so many pixels would take far longer than any sound file of `max_pixels`.

    One of 222 KB with 400 scans took a core for 14 s; nothing can stop a decoder on its way.
    """
    left = min(MOST, _PAINTS * max_pixels // max(1, pixels))
    at = 0
    for _ in range(_SEGMENTS):
        found = _MARKER.search(jpeg, at)
        if found is None or (kind := found[1][0]) == _END:
            return False
        at = found.end()
        left -= kind == _SCAN
        if left < 0:
            return True
        if kind != _START:
            at += max(2, int.from_bytes(jpeg[at : at + 2]))
    return True
