"""Whether a picture is in some file, and whom the files belong to."""

import base64
from pathlib import Path
from typing import Final

_CHUNK: Final = 12
"""An RDB file is compressed by LZF, which copies at most 32 bytes in a row as they are."""


def files_with(folder: Path, pixels: bytes) -> list[str]:
    """The files below the folder that have part of a picture of noise, as it is or in base64."""
    encoded = base64.b64encode(pixels)
    chunks = [text[at : at + _CHUNK] for text in (pixels, encoded) for at in range(0, len(text), 8)]
    chunks = [chunk for chunk in chunks if len(set(chunk)) > _CHUNK // 2]
    assert len(chunks) > 20, "a picture of noise is needed"
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if any(chunk in content for chunk in chunks):
                found.append(path.name)
    return found


def modes(folder: Path) -> set[str]:
    """The permissions of the folder and all below it, but for sockets: `d700` and `600` alone are private."""
    return {
        f"{'d' * path.is_dir()}{path.stat().st_mode & 0o777:o}"
        for path in (folder, *folder.rglob("*"))
        if not path.is_socket()
    }
