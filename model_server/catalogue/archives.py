"""Model files that are zip archives: `.keras`, and what PyTorch writes. Do they unpack to what a network is?

Owns that bound. Unpacks nothing: an archive says in front how large its parts are.
"""

import zipfile
from pathlib import Path
from typing import Final

_MOST: Final = 100
"""Times its size that an archive may unpack to. Weights hardly shrink; 300 KB of zeros in it are 300 MB."""

_SMALL: Final = 64 * 1024 * 1024
"""Bytes that are no harm, however few they were."""


def problem(path: Path) -> str:
    """What is wrong with the archive, as the end of a sentence; empty for a sound one, and for no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
    except (OSError, zipfile.BadZipFile):
        return ""
    packed = path.stat().st_size
    if unpacked <= max(_SMALL, _MOST * packed):
        return ""
    return f"unpacks to {unpacked / 1e6:,.0f} MB, {unpacked / packed:,.0f} times its size, as no network does"
