"""How much a GIF says before its first frame: comments, how often to repeat, what an editor left.

Owns the bound on that, and decodes nothing. Pillow joins each comment to all before it, and reads what lies
between two extensions byte by byte: 20 MB of comments of one letter took 4 s and 750 MB.
"""

import re
from typing import Final

SIGNATURE: Final = b"GIF8"

_EXTENSIONS: Final = 64
"""Editors write up to five."""

_BLOCKS: Final = 100_000
"""Of up to 255 bytes each: 25 MB of metadata."""

_GAP: Final = 1024
"""Bytes that may lie between two extensions. There should be none."""

_FLAGS_AT: Final = 10
_PALETTE_AT: Final = 13

_INTRODUCER: Final = re.compile(rb"[!,;]")
"""Of an extension, a frame and the end (GIF89a, appendix A)."""


def check(gif: bytes) -> None:
    """Raise ValueError where a GIF has more before its first frame than any encoder writes."""
    if len(gif) < _PALETTE_AT:
        return
    flags = gif[_FLAGS_AT]
    at = _PALETTE_AT + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    blocks = 0
    for _ in range(_EXTENSIONS + 1):
        introducer = _INTRODUCER.search(gif, at, at + _GAP)
        if introducer is None and at + _GAP < len(gif):
            break
        if introducer is None or introducer[0] != b"!":
            return
        at = introducer.end() + 1  # its label
        while at < len(gif) and gif[at]:
            at += 1 + gif[at]
            blocks += 1
            if blocks > _BLOCKS:
                raise ValueError("longer extensions than any encoder writes")
        at += 1
    raise ValueError("more extensions than any encoder writes")
