"""Files as a store names them: which paths are safe to write, how many and how large they may be.

Owns the check of names, the bounds, and the error that everything in stores/ raises. Opens nothing.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Protocol

from model_server.catalogue.folder_watch import is_ignored

MOST_FILES: Final = 10_000
"""The most files of a model, and of an archive, its folders included."""

BLOCK_BYTES: Final = 1024 * 1024
"""What is read at once: no file is held in memory."""

_MEGABYTE: Final = 2**20
_LONGEST_NAME: Final = 255
"""Bytes of one part of a path, which is what Linux takes."""

_TOML: Final = "model.toml"


class StoreError(Exception):
    """A model can't be brought from its store.

    The text is for clients too: it has no name of a bucket or host, and no credential.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
        """What the library said, for the log alone."""


class Interrupted(Exception):
    """The process is told to stop."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a model: its path below the model's folder, its size in bytes, what changes with it."""

    path: str
    bytes: int
    stamp: str
    key: str
    """How the store names it."""


class ModelSource(Protocol):
    """A place that models come from."""

    is_whole: ClassVar[bool]
    """Whether a change comes at once, so that no half of one is ever seen."""

    def look(self, model: str) -> str:
        """A word that changes with the model's content. Reads no content. Raises StoreError."""

    def fetch(self, model: str, folder: Path) -> None:
        """Write the model's files into an empty folder. Raises StoreError; OSError of the local disk."""

    def end_round(self) -> None:
        """All models were looked at: what was kept for the next one may go."""


def checked_path(path: str) -> str:
    """`path`, if it is relative and stays below the folder that it is written to. Raises StoreError."""
    parts = path.split("/")
    is_bad = (
        any(part in ("", ".", "..") or len(part.encode(errors="replace")) > _LONGEST_NAME for part in parts)
        or "\\" in path
        or re.match(r"[A-Za-z]:", path)
        or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path)
    )
    if is_bad:
        raise StoreError(f"It has a file whose name can't be one of a model's: {path[:100]!r}. Rename it.")
    return path


class FileBounds:
    """How many files, and how many bytes, there have been."""

    def __init__(self, most_mb: int) -> None:
        self._most_mb = most_mb
        self._files = self._bytes = 0

    def add(self, size: int) -> None:
        """One more file, of so many bytes. Raises StoreError if it is one too many, or all are too large."""
        self._files += 1
        self._bytes += size
        if self._files > MOST_FILES:
            raise StoreError(f"It has more than {MOST_FILES:,} files. Keep only the model's own there.")
        if self._bytes > self._most_mb * _MEGABYTE:
            raise StoreError(f"It is larger than {self._most_mb} MB. STORE_MAX_MB sets the bound.")


def check_bounds(sizes: Iterable[int], most_mb: int) -> None:
    """Raise StoreError if files of these sizes, in bytes, are too many or too large together."""
    bounds = FileBounds(most_mb)
    for size in sizes:
        bounds.add(size)


def check_tree(paths: Sequence[str]) -> None:
    """Raise StoreError if two files have one path, or a file has the path of another's folder."""
    files = set(paths)
    if len(files) < len(paths):
        raise StoreError("It has two files of one name. Keep one of them.")
    folders = {
        "/".join(parts[:end]) for parts in (path.split("/") for path in files) for end in range(1, len(parts))
    }
    if both := files & folders:
        raise StoreError(f"It has a file and a folder of one name: {min(both)[:100]!r}. Rename one of them.")


def below(model: str, paths: Sequence[str], *, is_only: bool) -> str:
    """The prefix of the model's files among all of these: `NAME/`, or nothing if they are the model itself.

    A single folder around everything is passed over, as archives have it. Raises StoreError.
    """
    tops = {path.partition("/")[0] for path in paths}
    around = ("", f"{next(iter(tops))}/") if len(tops) == 1 else ("",)
    there = set(paths)
    for prefix in around:
        if f"{prefix}{model}/{_TOML}" in there:
            return f"{prefix}{model}/"
    for prefix in around:
        if is_only and f"{prefix}{_TOML}" in there:
            return prefix
    raise missing(model)


def missing(model: str) -> StoreError:
    """The error of a store that does not have the model."""
    return StoreError(
        f"There is no {model}/{_TOML} in the store. Put it there, or take {model} out of MODELS."
    )


def served(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files that belong to the model: none that is hidden or unfinished. Ordered by path."""
    return sorted((file for file in files if not is_ignored(file.path)), key=lambda file: file.path)


def stamp_of(files: Iterable[RemoteFile]) -> str:
    """A word that changes with the files' names, sizes and stamps."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.bytes}\0{file.stamp}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
