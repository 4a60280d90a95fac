"""A JPEG without the segments that its pixels do not need: Exif, XMP, comments, what an editor left.

Owns which segments Pillow and libjpeg see before the first scan, and finds the Exif data. Decodes nothing;
jpeg_scans.py judges what comes after. Pillow takes a microsecond or more a segment, and copies all Exif data
before it for each of that kind: 10 MB of small ones held a core for 19 s.
"""

import re
from typing import Final

SIGNATURE: Final = b"\xff\xd8\xff"

_MARKER: Final = re.compile(rb"\xff([\x01-\xfe])")
"""What stands between two segments is passed over, as libjpeg does."""

_SEGMENTS: Final = 4096
"""Segments that are looked at: 256 MB, if they are full. A picture with its metadata has dozens, and a walk
over them takes 10 to 25 us."""

_TABLE_BYTES: Final = 65_536
"""Of quantisation and Huffman tables and the frame's header, before the first scan: all there can be of
baseline's and progressive's take 3 KB. Pillow reads a table in 5 us, and each may come a thousand times."""

_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF

_LONE: Final = frozenset(range(0xD0, 0xDB)) - {_SCAN}
"""Markers that nothing belongs to: restarts, a start, an end."""

_TABLES: Final = frozenset(range(0xC0, _APP0)) - {0xC8, _SCAN} - _LONE
"""Tables and frames (ITU-T T.81, table B.1)."""

_KNOWN: Final = _TABLES | _LONE | {_SCAN, _COMMENT} | frozenset(range(_APP0, _APP15 + 1))

_EXIF: Final = b"Exif\0\0"

_NEEDED: Final = {_APP0: b"JFIF\0", _APP2: b"ICC_PROFILE\0", _APP14: b"Adobe"}
"""Of the applications' segments, and how they begin: they say what the colours are."""


def without_extras(jpeg: bytes) -> tuple[bytes, bytes]:
    """The same picture without its extras, or `jpeg` itself where there are none; and its Exif data.

    Raises ValueError where its header has more, or other segments than any encoder writes.
    """
    pieces: list[bytes] = []
    exif = b""
    begin, at, tables = 0, 2, 0
    for _ in range(_SEGMENTS):
        marker = _MARKER.search(jpeg, at)
        if marker is None:
            break
        start, kind = marker.start(), marker[1][0]
        if kind not in _KNOWN:
            raise ValueError("a marker that no decoder takes")
        if start > at:  # something stands between two segments
            pieces.append(jpeg[begin:at])
            begin = start
        at = start + 2
        if kind not in _LONE:
            at += max(2, int.from_bytes(jpeg[at : at + 2]))

        if kind in _TABLES and (tables := tables + at - start) > _TABLE_BYTES:
            raise ValueError("more tables than a JPEG can need")
        if kind == _SCAN:
            return b"".join((*pieces, jpeg[begin:])) if begin else jpeg, exif
        if kind == _END:
            break
        if kind == _APP1 and not exif and jpeg.startswith(_EXIF, start + 4):
            exif = jpeg[start + 4 : at]
        if kind >= _APP0 and not (kind in _NEEDED and jpeg.startswith(_NEEDED[kind], start + 4)):
            pieces.append(jpeg[begin:start])
            begin = at
    else:
        raise ValueError("more segments than any encoder writes")
    # No scan has come. Pillow would read on behind the picture's end: nothing there was looked at.
    return b"".join((*pieces, jpeg[begin:at])), exif
