"""A .zip or .tar.gz that came from elsewhere: what is in it, and the unpacking of what may be.

Owns the rules of an archive: relative paths, files and folders only, bounded numbers and sizes. All of it is
checked before a file is written. Downloads nothing.
"""

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from broker.errors import first_line
from model_server.catalogue.folder_watch import is_ignored
from model_server.stores.remote_files import (
    BLOCK_BYTES,
    MOST_FILES,
    FileBounds,
    StoreError,
    below,
    check_tree,
    checked_path,
)

_MOST_DIRECTORY_BYTES: Final = 16 * 2**20
"""Of a zip's table of contents, which Python reads at once."""
_END: Final = b"PK\5\6"
_END_64: Final = b"PK\6\6"
_TAIL_BYTES: Final = 66_000
"""A zip's end record, with the longest comment."""

_BROKEN: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    struct.error,
    NotImplementedError,
)
_ENCRYPTED: Final = 1


@dataclass(frozen=True, slots=True)
class _Member:
    path: str
    bytes: int
    entry: zipfile.ZipInfo | tarfile.TarInfo


def unpack(archive: IO[bytes], model: str, folder: Path, *, most_mb: int, is_only: bool) -> None:
    """Write a model's files into an empty folder. `is_only`: the archive may be the model itself.

    Raises StoreError for an archive that breaks a rule anywhere, also outside this model; then nothing is
    written. OSError is the local disk's.
    """
    try:
        with _opened(archive) as opened:
            members = list(_members(opened, most_mb))
        check_tree([member.path for member in members])
        prefix = below(model, [member.path for member in members], is_only=is_only)
        own = [each for each in members if each.path.startswith(prefix)]
        with _opened(archive) as opened:
            for member in own:
                path = member.path.removeprefix(prefix)
                if not is_ignored(path):
                    _write(opened, member, folder / path)
    except (*_BROKEN, gzip.BadGzipFile) as error:
        raise StoreError("The archive is damaged.", f"{type(error).__name__}: {first_line(error)}") from None


@contextmanager
def _opened(archive: IO[bytes]) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    archive.seek(0)
    start = archive.read(4)
    archive.seek(0)
    if start[:2] == b"PK":
        _check_directory(archive)
        with zipfile.ZipFile(archive) as opened:
            yield opened
    elif start[:2] == b"\x1f\x8b":
        with (
            gzip.GzipFile(fileobj=archive) as inflated,
            tarfile.TarFile(fileobj=cast(IO[bytes], _Bounded(inflated))) as tar,
        ):
            yield tar
    else:
        raise StoreError("What came is neither a .zip nor a .tar.gz.")


class _Bounded:
    """A stream of which nobody reads much at once: headers in a tar may say that they are gigabytes long."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= 2 * BLOCK_BYTES:
            raise StoreError("The archive has a header that is too long.")
        return self._stream.read(size)


def _check_directory(archive: IO[bytes]) -> None:
    """Raise StoreError where a zip's table of contents is too long to be read."""
    end = archive.seek(0, 2)
    archive.seek(max(0, end - _TAIL_BYTES))
    tail = archive.read()
    archive.seek(0)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise StoreError("The archive is damaged.", "it has no end record")
    (length,) = struct.unpack_from("<L", tail, at + 12)
    at_64 = tail.rfind(_END_64, 0, at)
    if at_64 >= 0 and len(tail) >= at_64 + 48:
        length = max(length if length != 0xFFFFFFFF else 0, struct.unpack_from("<Q", tail, at_64 + 40)[0])
    if length > _MOST_DIRECTORY_BYTES:
        raise StoreError(f"It has more than {MOST_FILES:,} files. Keep only the model's own there.")


def _members(opened: zipfile.ZipFile | tarfile.TarFile, most_mb: int) -> Iterator[_Member]:
    """Every file. Raises StoreError at the first that is not allowed."""
    bounds = FileBounds(most_mb)
    for entry in opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened:
        if isinstance(entry, zipfile.ZipInfo):
            name, size = entry.filename, entry.file_size
        else:
            name, size = entry.name, entry.size
        bounds.add(size)
        is_folder, is_file = _kind(entry)
        # `tar -C folder .` writes ./ before each name.
        path = name.removeprefix("./").removesuffix("/") if is_folder else name.removeprefix("./")
        if is_folder and path in ("", "."):
            continue
        checked_path(path)
        if is_file:
            yield _Member(path, size, entry)
        elif not is_folder:
            raise StoreError(
                f"{path[:100]!r} is neither a file nor a folder, but a link, a device or encrypted. "
                "Pack the file itself."
            )


def _kind(entry: zipfile.ZipInfo | tarfile.TarInfo) -> tuple[bool, bool]:
    """Whether it is a folder, and whether it is a plain file."""
    if isinstance(entry, tarfile.TarInfo):
        return entry.isdir(), entry.isreg() and not entry.issparse()
    mode = stat.S_IFMT(entry.external_attr >> 16)
    is_folder = entry.is_dir() and mode in (0, stat.S_IFDIR)
    return is_folder, not entry.is_dir() and mode in (0, stat.S_IFREG) and not entry.flag_bits & _ENCRYPTED


def _write(opened: zipfile.ZipFile | tarfile.TarFile, member: _Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    entry = member.entry
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(entry, zipfile.ZipInfo)  # noqa: S101 - for the type checker
        content: IO[bytes] | None = opened.open(entry)
    else:
        assert isinstance(entry, tarfile.TarInfo)  # noqa: S101 - likewise
        content = opened.extractfile(entry)
    written = 0
    with target.open("xb") as file:
        while content is not None and (block := content.read(BLOCK_BYTES)):
            written += len(block)
            if written > member.bytes:
                break
            file.write(block)
    if written != member.bytes:
        raise StoreError("The archive is damaged.", f"{member.path}: another size than its header says")
