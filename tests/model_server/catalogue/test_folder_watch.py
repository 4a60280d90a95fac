"""Looks at a folder: what is a change, when it is complete, and what its version tells."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model_server.catalogue.folder_watch import QUIET_S, Watch, files, version_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "variables").mkdir(parents=True)
    (made / "model.toml").write_text("a")
    (made / "variables" / "weights").write_text("b")
    return made


def _settled(watch: Watch, now: float) -> bool:
    """Whether a change is found complete: one look notices, one is after the quiet time."""
    watch.look(now)
    return watch.look(now + QUIET_S) is not None


def test_nothing_new_is_no_change(folder: Path) -> None:
    assert not _settled(Watch(folder), 10)


def _rewrite_in_place(folder: Path) -> None:
    """Same size, same time, as `cp --preserve` would."""
    path = folder / "model.toml"
    before = path.stat()
    path.write_text("c")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _rename_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("new"))
    folder.rename(folder.with_name("old"))
    folder.with_name("new").rename(folder)


@pytest.mark.parametrize(
    "change",
    [
        _rewrite_in_place,
        _rename_folder,
        lambda folder: (folder / "variables" / "weights").write_text("longer"),
        lambda folder: (folder / "labels.csv").write_text("new"),
        lambda folder: (folder / "model.toml").unlink(),
        lambda folder: (folder / "variables" / "weights").rename(folder / "weights"),
    ],
)
def test_whatever_changes_is_a_change_once(folder: Path, change: Callable[[Path], object]) -> None:
    watch = Watch(folder)
    change(folder)
    assert _settled(watch, 10)
    found = watch.look(20)
    assert found is not None
    assert watch.is_still(found)
    watch.settle(found)
    assert watch.look(30) is None


@pytest.mark.parametrize("name", [".model.toml.swp", ".git/config", "mine.keras.tmp", "a~", "b.part"])
def test_hidden_and_unfinished_files_are_none(folder: Path, name: str) -> None:
    watch, version = Watch(folder), version_of(folder, "")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    assert not _settled(watch, 10)
    assert version_of(folder, "") == version


def test_what_is_still_being_copied_is_waited_for(folder: Path) -> None:
    watch = Watch(folder)
    for step in range(20):
        with (folder / "model.toml").open("a") as file:
            file.write("x")
        assert watch.look(10 + step * QUIET_S * 0.9) is None
    assert watch.look(10 + 19 * QUIET_S * 0.9 + QUIET_S) is not None


def test_a_folder_that_is_gone_is_a_change_to_nothing_and_back(folder: Path) -> None:
    watch = Watch(folder)
    folder.rename(folder.with_name("away"))
    assert watch.look(10) is None
    assert watch.look(10 + QUIET_S) == {}
    folder.with_name("away").rename(folder)
    # As it was: the same files, unchanged.
    assert not _settled(watch, 20)


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    "stray",
    [
        lambda folder: (folder / "old.csv").symlink_to("nowhere"),
        lambda folder: (folder / os.fsdecode(b"\xff.txt")).touch(),
        _pipe,
    ],
)
@pytest.mark.timeout(20)
def test_a_file_that_is_no_use_stops_nothing(folder: Path, stray: Callable[[Path], object]) -> None:
    stray(folder)
    before = version_of(folder, "")
    (folder / "variables" / "weights").write_text("c")
    assert version_of(folder, "") != before


def _flip(link: Path, target: str) -> None:
    link.with_name("new").symlink_to(target)
    link.with_name("new").rename(link)


@pytest.mark.parametrize("hidden", ["", "."])
def test_a_linked_folder_is_followed_and_another_is_a_change(folder: Path, hidden: str) -> None:
    for name in ("v1", "v2"):
        (folder / f"{hidden}{name}").mkdir()
        (folder / f"{hidden}{name}" / "network").write_text(name)
    (folder / "current").symlink_to(f"{hidden}v1")
    versions, watch = {version_of(folder, "")}, Watch(folder)
    _flip(folder / "current", f"{hidden}v2")
    versions.add(version_of(folder, ""))
    assert _settled(watch, 10)
    (folder / f"{hidden}v2" / "network").write_text("newer")
    versions.add(version_of(folder, ""))
    assert len(versions) == 3


@pytest.mark.timeout(20)
def test_a_linked_folder_leads_neither_outside_nor_in_circles(folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "file").touch()
    (folder / "away").symlink_to("../outside")
    (folder / "variables" / "up").symlink_to("..")
    (folder / "self").symlink_to("self")
    paths = [path for path, _ in files(folder)]
    assert paths == ["away", "model.toml", "self", "variables/up", "variables/weights"]
    before = version_of(folder, "")
    _flip(folder / "away", "..")
    assert version_of(folder, "") != before


def test_the_version_is_that_of_every_file_and_of_the_source(folder: Path) -> None:
    versions = {version_of(folder, "one"), version_of(folder, "two")}
    for change in (
        lambda: (folder / "variables" / "weights").write_text("c"),
        lambda: (folder / "variables" / "weights").rename(folder / "variables" / "other"),
    ):
        change()
        versions.add(version_of(folder, "one"))
    assert len(versions) == 4
    os.utime(folder / "model.toml")
    assert version_of(folder, "one") in versions
