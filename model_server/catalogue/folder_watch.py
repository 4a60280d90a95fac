"""A model's folder as files: whether it has changed, whether it is quiet, and the hash of its content.

Owns the looks at the file system. Knows no model.toml: model_spec.py says what the content means.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

QUIET_S: Final = 2.0
"""How long a changed folder must be left alone before it is loaded: a copy may still be under way."""

_BLOCK_BYTES: Final = 1024 * 1024

_UNREADABLE: Final = b"\0unreadable"
"""Hashed in place of the content of a file that can't be read."""

_UNFINISHED: Final = ("~", ".tmp", ".part", ".swp")
"""Suffixes that editors and copying programs give to unfinished files."""

_BYTECODE: Final = "__pycache__"
"""Python's own copies of a folder's .py files, which differ on every machine."""

Snapshot = dict[str, tuple[int, ...]]
"""Every file's path below the folder -> inode, size, times of change; empty if there is no folder."""


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below the folder, ordered by path: its path with slashes, and the file.

    Hidden and unfinished files are left out, and compiled Python.
    """
    return iter(sorted((path, file) for path, file in every_file(folder) if not is_ignored(path)))


def every_file(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below the folder, hidden ones too, in no order: its path with slashes, and the file.

    A linked folder is followed, since it may be the network (`current`), but neither out of `folder` nor in a
    circle: then the link itself is given.
    """
    return _below(folder, "", os.path.realpath(folder), ())


def _below(place: Path, path: str, top: str, above: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    real = os.path.realpath(place)
    if real in above or os.path.commonpath([real, top]) != top:
        yield path, place
        return
    try:
        names = os.listdir(place)
    except OSError:  # gone, or another user's
        return
    for name in names:
        entry, entry_path = place / name, f"{path}/{name}" if path else name
        if os.path.isdir(entry):
            yield from _below(entry, entry_path, top, (*above, real))
        else:
            yield entry_path, entry


def version_of(folder: Path, source: str, elsewhere: Path | None = None) -> str:
    """Twelve hexadecimal digits that change with the content of the files and with `source`.

    `elsewhere` is a file that belongs to the model; its path does not matter. A file that can't be read
    raises nothing: it may not even belong to the model.
    """
    digest = hashlib.sha256(source.encode())
    if elsewhere is not None:
        for block in _blocks(elsewhere):
            digest.update(block)
    for path, file in files(folder):
        digest.update(os.fsencode(path))
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()[:12]


def digest_of(file: Path) -> str:
    """The hash of one file's content, as the version has it."""
    digest = hashlib.sha256()
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()


def _blocks(file: Path) -> Iterator[bytes]:
    """A file's content; nothing for a pipe, whose reading would wait for a writer, or for a device."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            if file.is_symlink():
                yield os.fsencode(os.readlink(file))
            return
        with file.open("rb") as content:
            while block := content.read(_BLOCK_BYTES):
                yield block
    except OSError:  # gone since it was listed, a link that leads nowhere, another user's
        yield _UNREADABLE


def snapshot(folder: Path, elsewhere: Path | None = None) -> Snapshot:
    """The state of its files now, without reading them. It has ctime too: a copy may set mtime to any value.

    `elsewhere` is a file that belongs to the model; it appears under its absolute path.
    """
    statuses: Snapshot = {}
    for path, file in files(folder):
        statuses |= _status(path, file)
    return statuses | _elsewhere(elsewhere) if statuses else statuses


def _elsewhere(file: Path | None) -> Snapshot:
    return {} if file is None else _status(str(file.absolute()), file)


def _status(path: str, file: Path) -> Snapshot:
    try:
        status = file.stat()
    except OSError:  # gone since it was listed, or a link that leads nowhere
        return {}
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)}


class Watch:
    """Notices when a folder has changed and is quiet again. For one thread. `now` is monotonic seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._elsewhere: Path | None = None
        self._settled = self._latest = snapshot(folder)
        self._since = 0.0

    def look(self, now: float) -> Snapshot | None:
        """The snapshot of a folder that changed since it was last settled, once it is quiet; else None."""
        current = snapshot(self._folder, self._elsewhere)
        if current != self._latest:
            self._latest, self._since = current, now
        if current == self._settled or now - self._since < QUIET_S:
            return None
        return current

    def also(self, elsewhere: Path | None, earlier: Snapshot) -> Snapshot:
        """Watch this file beside the folder. Returns `earlier`, with the file's state now if it is new.

        To be called before the file is read.
        """
        if elsewhere == self._elsewhere:
            return earlier
        self._elsewhere = elsewhere
        within = {path: status for path, status in earlier.items() if not os.path.isabs(path)}
        return within | _elsewhere(elsewhere)

    def settle(self, current: Snapshot) -> None:
        """Say that this snapshot was loaded or refused: from now on only another one is a change."""
        self._settled = current

    def is_still(self, earlier: Snapshot) -> bool:
        """Whether nothing has changed since the snapshot."""
        return snapshot(self._folder, self._elsewhere) == earlier

    @property
    def settled(self) -> Snapshot:
        """The snapshot that was settled last, or that of the start."""
        return self._settled


def is_ignored(path: str) -> bool:
    """Whether a path is hidden, unfinished or compiled Python, and so no part of the model."""
    parts = path.split("/")
    return path.endswith(_UNFINISHED) or _BYTECODE in parts or any(part.startswith(".") for part in parts)
