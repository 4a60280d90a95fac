"""Archives: what is unpacked, and what is refused before a file is written."""

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from model_server.stores import archive
from model_server.stores.remote_files import StoreError

GOOD = {
    "cat/model.toml": b"task",
    "cat/sub/weights": b"12345",
    "cat/.hidden": b"",
    "dog/model.toml": b"other",
}


def zipped(files: dict[str, bytes]) -> io.BytesIO:
    """A .zip with these files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive_:
        for name, content in files.items():
            archive_.writestr(name, content)
    return packed


def tarred(files: dict[str, bytes], *more: tarfile.TarInfo) -> io.BytesIO:
    """A .tar.gz with these files, and members without content."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive_:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive_.addfile(member, io.BytesIO(content))
        for member in more:
            archive_.addfile(member)
    return packed


def unpacked(
    packed: io.BytesIO, folder: Path, model: str = "cat", *, is_only: bool = False
) -> dict[str, bytes]:
    """The files that unpacking writes."""
    archive.unpack(packed, model, folder, most_mb=1, is_only=is_only)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("packed", [zipped, tarred])
@pytest.mark.parametrize("around", ["", "release-1/", "./"])
def test_a_model_s_own_files_come_out(
    packed: Callable[[dict[str, bytes]], io.BytesIO], around: str, tmp_path: Path
) -> None:
    files = {around + name: content for name, content in GOOD.items()}
    assert unpacked(packed(files), tmp_path) == {"model.toml": b"task", "sub/weights": b"12345"}


def test_an_archive_can_be_one_model(tmp_path: Path) -> None:
    files = {"model.toml": b"task", "weights": b"1"}
    assert unpacked(zipped(files), tmp_path, is_only=True) == files
    with pytest.raises(StoreError, match=r"no cat/model\.toml"):
        unpacked(zipped(files), tmp_path)


def _special(name: str, kind: bytes, leads_to: str = "") -> io.BytesIO:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, leads_to
    return tarred(GOOD, member)


def _zip_link() -> io.BytesIO:
    packed = zipped(GOOD)
    link = zipfile.ZipInfo("cat/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "a") as archive_:
        archive_.writestr(link, "/etc/passwd")
    return packed


def _renamed(old: bytes, new: bytes) -> io.BytesIO:
    """A zip whose names are changed in its bytes: zipfile would mend them."""
    return io.BytesIO(zipped(GOOD | {old.decode(): b""}).getvalue().replace(old, new))


def _long_header() -> io.BytesIO:
    """A tar whose extended header says that it has a gigabyte."""
    member = tarfile.TarInfo("cat/x")
    member.type, member.size = tarfile.XHDTYPE, 2**30
    return io.BytesIO(gzip.compress(member.tobuf(tarfile.USTAR_FORMAT) + bytes(10240)))


def _lying_size(told: int) -> io.BytesIO:
    """A zip whose file has 5,000 bytes, and another number in its header."""
    packed = zipped({"cat/model.toml": b"t" * 5000}).getvalue()
    return io.BytesIO(packed.replace((5000).to_bytes(4, "little"), told.to_bytes(4, "little")))


def _long_directory() -> io.BytesIO:
    """A zip whose table of contents has 46 bytes, and in the record for large zips, which counts, 32 MB."""
    large = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**25, 4)
    leads_there = struct.pack("<4sLQL", b"PK\6\7", 0, 4, 1)
    return io.BytesIO(
        b"PK\3\4" + large + leads_there + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 1, 1, 46, 4, 0)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packed", "told"),
    [
        (lambda: zipped(GOOD | {"../evil": b""}), "name"),
        (lambda: zipped(GOOD | {"cat/../../evil": b""}), "name"),
        (lambda: tarred(GOOD | {"/tmp/evil": b""}), "name"),  # noqa: S108 - a name in an archive
        (lambda: _renamed(b"cat/evil", b"cat\\evil"), "name"),
        (lambda: zipped(GOOD | {"C:evil": b""}), "name"),
        (lambda: tarred(GOOD | {"cat/ev\nil": b""}), "name"),
        (lambda: zipped(GOOD | {"cat//evil": b""}), "name"),
        (lambda: tarred(GOOD | {f"cat/{'x' * 256}": b""}), "name"),
        (lambda: _special("cat/link", tarfile.SYMTYPE, "/etc/passwd"), "link"),
        (lambda: _special("cat/link", tarfile.LNKTYPE, "cat/model.toml"), "link"),
        (lambda: _special("cat/device", tarfile.CHRTYPE), "device"),
        (lambda: _special("cat/pipe", tarfile.FIFOTYPE), "device"),
        (_zip_link, "link"),
        (lambda: tarred(GOOD, tarfile.TarInfo("cat/model.toml")), "two files of one name"),
        (lambda: tarred(GOOD, tarfile.TarInfo("cat/sub")), "a file and a folder"),
        (lambda: zipped(GOOD | {"dog/zeros": bytes(2**20)}), "larger than 1 MB"),
        (lambda: tarred(GOOD | {"dog/zeros": bytes(2**20)}), "larger than 1 MB"),
        (lambda: zipped(GOOD | {f"dog/{number}": b"" for number in range(10_000)}), "more than 10,000 files"),
        (lambda: tarred(GOOD | {f"dog/{number}": b"" for number in range(10_000)}), "more than 10,000 files"),
        (lambda: zipped({f"{number:0250}": b"" for number in range(60_000)}), "more than 10,000 files"),
        (_long_directory, "more than 10,000 files"),
        (_long_header, "header that is too long"),
        (lambda: io.BytesIO(b"<html>not found</html>"), "neither a .zip nor"),
        (lambda: io.BytesIO(b"PK\3\4" + bytes(100)), "damaged"),
        (lambda: io.BytesIO(tarred({"cat/model.toml": bytes(range(256)) * 99}).getvalue()[:-300]), "damaged"),
    ],
)
def test_what_is_refused_writes_nothing(packed: Callable[[], io.BytesIO], told: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=told):
        unpacked(packed(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("told", [50, 5001])
def test_a_file_of_another_size_than_its_header_says_is_damaged(told: int, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="damaged"):
        unpacked(_lying_size(told), tmp_path)
