"""The local copies of a store's models: a folder for each content, and which one is the latest of a model.

Owns the folder of one store below CACHE_DIR, its locks and its pruning. Any number of processes share it, on
one file system with flock. A version is whole or absent: it is written beside its place, synced and renamed.

    versions/HASH/models/NAME    a version, never changed; HASH is that of its name and content
    versions/HASH/in-use         locked, shared, by every process that serves it
    current/NAME                 a link to the latest version's folder
    current/.NAME.json           the store's stamp of what the link leads to
    incoming/NAME                a download under way, or the rest of one
    locks/NAME                   held by the process that downloads the model
"""

import fcntl
import hashlib
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from model_server.catalogue.folder_watch import digest_of, files
from model_server.stores.remote_files import Interrupted

_IN_USE: Final = "in-use"
_TRIES: Final = 5
_GONE: Final = ".gone-"


class InUse:
    """Keeps a version on the disk for as long as this object lives."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        """The model's folder, which never changes."""
        self._finalizer = weakref.finalize(self, os.close, lock)

    def release(self) -> None:
        """Let the version go now."""
        self._finalizer()


class VersionFolders:
    """The versions of one store's models. Methods raise OSError where the folder can't be read or written."""

    def __init__(self, folder: Path) -> None:
        self._versions = folder / "versions"
        self._current = folder / "current"
        self.incoming = folder / "incoming"
        self._locks = folder / "locks"
        self._whole: set[str] = set()
        """The hashes that this process has compared with the content."""
        for each in (self._versions, self._current, self.incoming, self._locks):
            each.mkdir(parents=True, exist_ok=True)

    def link(self, model: str) -> Path:
        """Where the latest version is, or will be: what is to be watched."""
        return self._current / model

    def stamp(self, model: str) -> str:
        """The store's stamp of the latest version; empty if there is none that is known and here."""
        try:
            about = json.loads((self._current / f".{model}.json").read_text("utf-8"))
            is_of_link = about["content"] == self._content(model)
            return str(about["stamp"]) if is_of_link and self.link(model).is_dir() else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    @contextmanager
    def downloading(self, model: str, wait: Callable[[float], bool]) -> Iterator[Path]:
        """A context that one process has at a time: an empty folder for the model's files.

        `wait` sleeps and says whether to give up; then Interrupted is raised. What is left of a download
        that was killed is removed first.
        """
        with (self._locks / model).open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if wait(0.2):
                        raise Interrupted from None
            place = self.incoming / model
            shutil.rmtree(place, ignore_errors=True)
            folder = place / "models" / model
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def keep(self, model: str, folder: Path, stamp: str) -> None:
        """Make what `downloading` gave the latest version. The caller still has that context."""
        content = _hash(folder)
        place = folder.parent.parent
        lock = self._hold(content)
        if lock is None:
            lock = os.open(place / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_SH)  # before anyone can see it, or it would be pruned at once
            _sync_tree(place)
            place.rename(self._versions / content)
            _sync(self._versions)
        self._whole.add(content)
        try:
            if self._content(model) != content:
                _replace_link(self.link(model), Path("..", "versions", content, "models", model))
            _replace_text(self._current / f".{model}.json", json.dumps({"stamp": stamp, "content": content}))
            _sync(self._current)
        finally:
            os.close(lock)

    def use(self, model: str) -> InUse | None:
        """The latest version, kept on disk while the answer lives; None if there is none that is whole."""
        for _ in range(_TRIES):
            content = self._content(model)
            if not content:
                return None
            lock = self._hold(content)
            if lock is None:
                if self._content(model) == content:  # it was deleted by hand
                    return None
                continue  # another has taken its place, and it was pruned meanwhile
            folder = self._versions / content / "models" / model
            if content in self._whole or _hash(folder) == content:
                self._whole.add(content)
                return InUse(folder, lock)
            os.close(lock)
            self._remove(self._versions / content)
            return None
        return None

    def prune(self) -> None:
        """Delete every version that is no model's latest, and that no process uses."""
        latest = {self._content(link.name) for link in self._current.iterdir()}
        for version in self._versions.iterdir():
            if version.name in latest:
                continue
            if version.name.startswith(_GONE):
                shutil.rmtree(version, ignore_errors=True)
                continue
            with suppress(OSError), (version / _IN_USE).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove(version)

    def _remove(self, version: Path) -> None:
        """Delete it so that it is never seen in part."""
        gone = version.with_name(f"{_GONE}{uuid.uuid4().hex}")
        with suppress(OSError):  # another process has been faster
            version.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _content(self, model: str) -> str:
        """The hash that the link leads to; empty if there is no link."""
        try:
            return Path(os.readlink(self.link(model))).parts[-3]
        except (OSError, IndexError):
            return ""

    def _hold(self, content: str) -> int | None:
        """The shared lock of a version, as a file descriptor; None if it is not there."""
        path = self._versions / content / _IN_USE
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(OSError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)
        return None


def _hash(folder: Path) -> str:
    """Of the model's name and of its files' names and contents."""
    digest = hashlib.sha256(folder.name.encode())
    for path, file in files(folder):
        digest.update(f"\0{path}\0{digest_of(file)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_link(link: Path, target: Path) -> None:
    new = link.with_name(f".{link.name}.link")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


def _replace_text(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, "utf-8")
    _sync(new)
    new.replace(path)
