"""A file by its name, from within one folder and from nowhere else."""

import errno
import os
from pathlib import Path

import pytest

from web.dialects import shared_folder
from web.errors import NotFound
from web.server.refusals import UploadTooLarge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture, one in a folder below, and ways that lead out of it."""
    folder = tmp_path / "shared"
    (folder / "dogs").mkdir(parents=True)
    (folder / "poodle.jpg").write_bytes(b"poodle")
    (folder / "dogs" / "pug.jpg").write_bytes(b"pug")
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "out").symlink_to(tmp_path)
    (folder / "within").symlink_to(folder / "poodle.jpg")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(("name", "content"), [("poodle.jpg", b"poodle"), ("dogs/pug.jpg", b"pug")])
def test_a_file_of_the_folder_is_read(folder: Path, name: str, content: bytes) -> None:
    assert shared_folder.read(folder, name, max_bytes=6) == content


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "/",
            ".",
            "..",
            "../secret",
            "dogs/../../secret",
            "dogs/../poodle.jpg",
            "./poodle.jpg",
            "//poodle.jpg",
        ),
        *(
            "link",
            "out/secret",
            "out/shared/poodle.jpg",
            "within",
            "pipe",
            "dogs",
            "dogs/",
            "poodle.jpg/",
            "none.jpg",
        ),
        *("a\0b", "\ud800", "x" * 5000, "..\\secret", "%2e%2e/secret"),
    ],
)
def test_nothing_else_is(folder: Path, name: str) -> None:
    with pytest.raises(NotFound, match="FILES_DIR"):
        shared_folder.read(folder, name, max_bytes=100)


def test_an_absolute_path_is_not_either(folder: Path) -> None:
    for path in (folder.parent / "secret", folder / "poodle.jpg"):
        with pytest.raises(NotFound):
            shared_folder.read(folder, str(path), max_bytes=100)


def test_a_folder_that_is_not_there_has_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        shared_folder.read(tmp_path / "none", "poodle.jpg", max_bytes=100)


def test_a_file_is_read_to_its_bound(folder: Path) -> None:
    with pytest.raises(UploadTooLarge):
        shared_folder.read(folder, "poodle.jpg", max_bytes=5)


def test_no_descriptor_is_left_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("dogs/pug.jpg", "dogs/none.jpg", "out/secret", "pipe", "dogs"):
        try:
            shared_folder.read(folder, name, max_bytes=100)
        except NotFound:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_without_descriptors_does_not_blame_the_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        shared_folder.read(folder, "poodle.jpg", max_bytes=6)
