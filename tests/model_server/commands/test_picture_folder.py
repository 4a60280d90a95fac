"""A folder of the user's pictures: what is read, what has labels, and what is held out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_server.commands import picture_folder
from model_server.commands.picture_folder import FolderPictures, PictureFolderError
from tests.model_server.engines import tiny


def fill(folder: Path, names: tuple[str, ...] = ("dark", "grey", "bright"), *, each: int = 10) -> Path:
    """Make a folder a name, with pictures of a grey of its own."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for count in range(each):
            picture = Image.new("L", (20, 10), 120 * number + count)
            picture.save(folder / name / f"{count}.png")
    return folder


def _read(folder: Path, tmp_path: Path, *, at_most: int = 1000) -> FolderPictures:
    spec = tiny.spec(tmp_path / "spec")
    return picture_folder.read(folder, spec, max_pixels=10_000, at_most=at_most)


def test_folders_named_after_classes_are_labels(tmp_path: Path) -> None:
    found = _read(fill(tmp_path / "p"), tmp_path)
    assert found.pixels.shape == (30, 2, 2, 1)
    assert found.labels is not None
    assert (found.pixels[:, 0, 0, 0] // 120).tolist() == found.labels.tolist()
    by_id = _read(fill(tmp_path / "q", ("0", "1", "2")), tmp_path)
    assert by_id.labels is not None
    assert sorted(by_id.labels.tolist()) == sorted(found.labels.tolist())


def test_other_folders_are_none(tmp_path: Path) -> None:
    assert _read(fill(tmp_path / "p", ("dark", "holiday")), tmp_path).labels is None
    folder = fill(tmp_path / "q")
    Image.new("L", (9, 9)).save(folder / "beside.png")
    assert _read(folder, tmp_path).labels is None


def test_what_is_no_picture_is_left_out_and_the_choice_is_always_the_same(tmp_path: Path) -> None:
    folder = fill(tmp_path / "p")
    (folder / "dark" / "notes.txt").write_text("no picture")
    Image.new("L", (200, 100)).save(folder / "dark" / "large.png")
    assert len(_read(folder, tmp_path)) == 30
    some = _read(folder, tmp_path, at_most=25)
    assert len(some) == 25
    assert (some.pixels == _read(folder, tmp_path, at_most=25).pixels).all()
    assert some.labels is not None
    assert len(set(some.labels.tolist())) == 3  # by lot, not the first folders


def test_class_folders_that_are_links_are_followed_but_in_no_circle(tmp_path: Path) -> None:
    elsewhere, folder = fill(tmp_path / "elsewhere", ("a", "b", "c")), tmp_path / "p"
    folder.mkdir()
    for name, target in {"dark": "a", "grey": "b", "bright": "c"}.items():
        (folder / name).symlink_to(elsewhere / target)
    (elsewhere / "a" / "round").symlink_to(folder)
    (elsewhere / "b" / "nowhere.png").symlink_to(tmp_path / "none")
    linked = _read(folder, tmp_path)
    assert linked.labels is not None
    assert sorted(linked.labels.tolist()) == [0] * 10 + [1] * 10 + [2] * 10


def test_it_counts_the_files_that_are_not_pictures(tmp_path: Path) -> None:
    folder = fill(tmp_path / "p")
    (folder / "dark" / "notes.txt").write_text("no picture")
    assert _read(folder, tmp_path).left_out == 1
    with pytest.raises(PictureFolderError, match=r"has 10 pictures .*\(1 files could not be read"):
        _read(folder / "dark", tmp_path)


def test_a_folder_that_is_none_or_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureFolderError, match="is not a folder"):
        _read(tmp_path / "none", tmp_path)
    with pytest.raises(PictureFolderError, match="has 9 pictures"):
        _read(fill(tmp_path / "p", each=3), tmp_path)


@pytest.mark.parametrize(("rows", "calibrate", "sizes"), [(30, 10, (10, 20)), (30, 300, (15, 15))])
def test_no_picture_judges_what_it_calibrated(rows: int, calibrate: int, sizes: tuple[int, int]) -> None:
    pixels = np.arange(rows, dtype=np.uint8).reshape(rows, 1, 1, 1)
    parts = picture_folder.divide(FolderPictures(pixels, np.arange(rows)), calibrate)
    assert tuple(len(part) for part in parts) == sizes
    assert {*parts[0].pixels.ravel()} & {*parts[1].pixels.ravel()} == set()
    assert parts[1].labels is not None
    assert parts[1].labels.tolist() == parts[1].pixels.ravel().tolist()
