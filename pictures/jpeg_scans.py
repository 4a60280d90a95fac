"""How often a JPEG paints over its whole picture, read from its markers before a pixel is decoded.

Owns the bound on that work. Decodes nothing: it goes from marker to marker as libjpeg does, up to the end of
the first picture, for what phones put after that (another picture, a film) may hold any bytes.
"""

import re
from typing import Final

_PAINTS: Final = 32
"""How often MAX_PIXELS may be painted, one component at a time. With colours at full size libjpeg's script
comes to 14 and MozJPEG's to 26; all 32 of 64 megapixels, in as few bytes as they fit into, take 1.5 s."""

_MOST_COMPONENTS: Final = 4
"""Of one scan (ITU-T T.81, table B.3): libjpeg takes no more."""

SCAN: Final = b"\xff\xda"
"""How a scan begins."""

FEW: Final = _PAINTS // _MOST_COMPONENTS
"""So many scans are never too many. Nearly all JPEGs have no more, and need no look at their markers."""

_SEGMENTS: Final = 4096
"""Markers that are looked at; a picture with its metadata has dozens."""

_MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
"""None of those that stand alone within a scan; an FF of its data is followed by 00."""

_END, _SCAN, _START = 0xD9, 0xDA, 0xD8

_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15, without the tables that lie between them."""


def too_many(jpeg: bytes, *, pixels: int, max_pixels: int) -> bool:
    """Whether decoding a JPEG of so many pixels would take far longer than any sound file of `max_pixels`.

    One of 222 KB with 400 scans took a core for 14 s; nothing can stop a decoder on its way. Ask only where
    there are more than FEW.
    """
    left = float(_PAINTS * max_pixels)
    shares: dict[int, float] = {}
    at = 0
    for _ in range(_SEGMENTS):
        found = _MARKER.search(jpeg, at)
        if found is None or (kind := found[1][0]) == _END:
            return False
        at = found.end()
        if kind in _FRAMES:
            shares = _shares(jpeg, at)
        elif kind == _SCAN:
            left -= pixels * _painted(jpeg, at, shares)
        if left < 0:
            return True
        if kind != _START:
            at += max(2, int.from_bytes(jpeg[at : at + 2]))
    return True


def _shares(jpeg: bytes, at: int) -> dict[int, float]:
    """Component -> how much of the picture's pixels it has; the colours of most photos have a quarter."""
    count = jpeg[at + 7] if at + 7 < len(jpeg) else 0
    parts = jpeg[at + 8 : at + 8 + 3 * count]
    areas = {parts[n]: (parts[n + 1] >> 4, parts[n + 1] & 15) for n in range(0, len(parts) - 2, 3)}
    across = max((width for width, _ in areas.values()), default=1) or 1
    down = max((height for _, height in areas.values()), default=1) or 1
    return {part: width * height / (across * down) for part, (width, height) in areas.items()}


def _painted(jpeg: bytes, at: int, shares: dict[int, float]) -> float:
    """How much of the picture a scan paints: the sum over its components."""
    count = jpeg[at + 2] if at + 2 < len(jpeg) else 1
    return sum(shares.get(part, 1.0) for part in jpeg[at + 3 : at + 3 + 2 * count : 2])
