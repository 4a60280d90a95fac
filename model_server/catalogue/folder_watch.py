"""A model's folder as files: has it changed, is it quiet, what does it hold.

Owns the looks at the file system. Knows no model.toml: catalogue.py says what the content means.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

QUIET_S: Final = 2.0
"""A folder that changed is taken up once nothing has changed for so long: a copy may still be on its way."""

_BLOCK_BYTES: Final = 1024 * 1024

_UNREADABLE: Final = b"\0unreadable"
"""Digested in the place of a file's content."""

_UNFINISHED: Final = ("~", ".tmp", ".part", ".swp")
"""How the names end that editors and copying programs give to what they have not finished."""

Snapshot = dict[str, tuple[int, ...]]
"""Every file's path below the folder -> inode, size, times of change; empty: there is no folder."""


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below, in the order of their paths: that path with slashes, and the file.

    Hidden and unfinished ones are left out.
    """
    found = ((path, file) for path, file in every_file(folder) if not _is_passed_over(path))
    return iter(sorted(found))


def every_file(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below, hidden ones too, in no order: its path with slashes, and the file.

    A linked folder is followed, for it may be the network (`current`), but neither out of `folder` nor in a
    circle: then the link itself is told.
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
        each, at = place / name, f"{path}/{name}" if path else name
        if os.path.isdir(each):
            yield from _below(each, at, top, (*above, real))
        else:
            yield at, each


def version_of(folder: Path, source: str, elsewhere: Path | None = None) -> str:
    """Twelve hexadecimal digits that change with the content of the files and with `source`.

    `elsewhere` is a file that belongs to the model and lies at a place that does not matter. No file stops
    it: what can't be read may not even belong to the model.
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


def _blocks(file: Path) -> Iterator[bytes]:
    """What it holds; nothing of a pipe, whose reading would wait for a writer, or a device."""
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
    """How its files are now, without reading them. ctime too: a copy may set the other time as it likes.

    `elsewhere`, under its absolute path, is a file that belongs to the model.
    """
    seen: Snapshot = {}
    for path, file in files(folder):
        seen |= _status(path, file)
    return seen | _elsewhere(elsewhere) if seen else seen


def _elsewhere(file: Path | None) -> Snapshot:
    return {} if file is None else _status(str(file.absolute()), file)


def _status(path: str, file: Path) -> Snapshot:
    try:
        status = file.stat()
    except OSError:  # gone since it was listed, or a link that leads nowhere
        return {}
    return {path: (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)}


class Watch:
    """Tells when a folder has changed and is quiet again. One thread's. `now` is monotonic seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._elsewhere: Path | None = None
        self._settled = self._latest = snapshot(folder)
        self._since = 0.0

    def look(self, now: float) -> Snapshot | None:
        """The snapshot of a folder that changed since it was last settled, once it is quiet; else None."""
        found = snapshot(self._folder, self._elsewhere)
        if found != self._latest:
            self._latest, self._since = found, now
        if found == self._settled or now - self._since < QUIET_S:
            return None
        return found

    def also(self, elsewhere: Path | None, taken: Snapshot) -> Snapshot:
        """Watch this file beside the folder. Returns `taken`, with the file as it is now if it is a new one.

        To be called before the file is read.
        """
        if elsewhere == self._elsewhere:
            return taken
        self._elsewhere = elsewhere
        return {path: seen for path, seen in taken.items() if not os.path.isabs(path)} | _elsewhere(elsewhere)

    def settle(self, taken: Snapshot) -> None:
        """This has been taken up, or refused: only another is a change."""
        self._settled = taken

    def is_still(self, taken: Snapshot) -> bool:
        """Whether nothing has changed since."""
        return snapshot(self._folder, self._elsewhere) == taken

    @property
    def settled(self) -> Snapshot:
        """What was there when it was made, or settled last."""
        return self._settled


def _is_passed_over(path: str) -> bool:
    return path.endswith(_UNFINISHED) or any(part.startswith(".") for part in path.split("/"))
