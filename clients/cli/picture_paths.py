"""The pictures that the command line names: files as they are, folders by their files' endings.

Owns the list of endings. Opens no picture.
"""

import os
from collections.abc import Iterator
from typing import Final

ENDINGS: Final = (
    ".avif",
    ".bmp",
    ".cur",
    ".gif",
    ".heic",
    ".heif",
    ".ico",
    ".jpeg",
    ".jpg",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
"""Of the formats in docs/http.md, in small letters."""


def pictures(names: tuple[str, ...], *, recursive: bool) -> list[str]:
    """Every picture once, in the order of the names. Raises OSError for a folder that can't be read."""
    paths: dict[str, None] = {}
    for name in names:
        paths.update(dict.fromkeys(_folder(name, recursive=recursive) if os.path.isdir(name) else [name]))
    return list(paths)


def _folder(name: str, *, recursive: bool) -> Iterator[str]:
    """A folder's pictures, sorted; no hidden files, which other systems leave beside their pictures."""
    entries = sorted(os.scandir(name), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A link may lead back to where it is.
            if recursive and not entry.is_symlink():
                yield from _folder(entry.path, recursive=True)
        elif entry.name.lower().endswith(ENDINGS):
            yield entry.path
