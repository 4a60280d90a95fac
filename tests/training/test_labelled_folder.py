"""Labelled folders: what is found, what is left out and why, and that a .zip is as good."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from broker.messages import Fit, InputSpec
from pictures.fit import prepare
from tests.training.folders import fill, picture
from training import labelled_folder
from training.labelled_folder import LabelledFolderError
from training.splits import without_repeats

SPEC = InputSpec(width=16, height=16, channels=3, fit=Fit.CROP)


def test_a_folder_a_class_in_order_of_their_names_and_what_is_below_them(tmp_path: Path) -> None:
    fill(tmp_path, each=3)
    (tmp_path / "sea" / "deep").mkdir()
    (tmp_path / "sea" / "1.jpg").rename(tmp_path / "sea" / "deep" / "1.jpg")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "grass" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "read me.txt").write_text("beside the folders")
    classes, files = labelled_folder.files_of(tmp_path)
    assert classes == ("grass", "sea", "wine")
    assert [file.label for file in files] == [0] * 3 + [1] * 3 + [2] * 3
    assert str(tmp_path / "sea" / "deep" / "1.jpg") in {file.name for file in files}


def test_a_zip_holds_what_its_folder_holds(tmp_path: Path) -> None:
    folder = fill(tmp_path / "f", each=3)
    archive = Path(shutil.make_archive(str(tmp_path / "f"), "zip", folder))
    read = [
        labelled_folder.read(labelled_folder.files_of(labelled_folder.opened(path))[1], SPEC)
        for path in (folder, archive)
    ]
    assert (read[0].pictures.pixels == read[1].pictures.pixels).all()
    assert read[0].pictures.labels.tolist() == read[1].pictures.labels.tolist()


@pytest.mark.parametrize("is_kept", [False, True])
def test_pictures_are_those_that_the_web_tier_makes(tmp_path: Path, is_kept: bool) -> None:
    files = labelled_folder.files_of(fill(tmp_path / "f", each=2))[1]
    read = labelled_folder.read(files, SPEC, tmp_path / "kept.npy" if is_kept else None)
    for row, file in enumerate(read.files):
        assert isinstance(file.place, Path)
        served = prepare(file.place.read_bytes(), SPEC, max_pixels=10**6).pixels
        assert (read.pictures.pixels[row] == served).all()
    assert read.pictures.labels.tolist() == [file.label for file in read.files]
    assert (tmp_path / "kept.npy").exists() == is_kept


def test_what_is_no_picture_is_named_and_the_rest_keeps_its_labels(tmp_path: Path) -> None:
    fill(tmp_path, each=2)
    (tmp_path / "grass" / "0.jpg").write_bytes(picture("grass", 0)[:200])
    (tmp_path / "sea" / "notes.txt").write_text("waves")
    read = labelled_folder.read(labelled_folder.files_of(tmp_path)[1], SPEC)
    reasons = {skipped.file.name: skipped.reason for skipped in read.skipped}
    assert set(reasons) == {str(tmp_path / "grass" / "0.jpg"), str(tmp_path / "sea" / "notes.txt")}
    assert "cut short" in reasons[str(tmp_path / "grass" / "0.jpg")]
    assert read.pictures.labels.tolist() == [0, 1, 1, 2, 2]
    assert len(read.pictures) == len(read.files) == 5
    blue = read.pictures.pixels[1:3].astype(np.float64).mean(axis=(0, 1, 2))
    assert blue.argmax() == 2


def test_a_folder_that_is_none_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LabelledFolderError, match="is not a folder"):
        labelled_folder.opened(tmp_path / "none")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(LabelledFolderError, match=r"neither a folder nor a \.zip"):
        labelled_folder.opened(tmp_path / "text")
    (tmp_path / "only").mkdir()
    with pytest.raises(
        LabelledFolderError, match="holds 1 folders; it takes one for each class, two at least"
    ):
        labelled_folder.files_of(tmp_path)


def test_a_disk_without_room_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    files = labelled_folder.files_of(fill(tmp_path / "f", each=2))[1]
    with pytest.raises(LabelledFolderError, match="has no room for 6 pictures"):
        labelled_folder.read(files, SPEC, tmp_path / "kept.npy")


def test_a_zip_with_its_folder_on_top_and_what_macos_adds_is_as_good(tmp_path: Path) -> None:
    fill(tmp_path / "f" / "pets", each=3)
    (tmp_path / "f" / "__MACOSX" / "pets").mkdir(parents=True)
    (tmp_path / "f" / "__MACOSX" / "pets" / "._0.jpg").write_bytes(b"x")
    archive = Path(shutil.make_archive(str(tmp_path / "f"), "zip", tmp_path / "f"))
    for place in (labelled_folder.opened(archive), tmp_path / "f"):
        classes, files = labelled_folder.files_of(place)
        assert classes == ("grass", "sea", "wine")
        assert len(files) == 9


@pytest.mark.parametrize("damage", ["content", "encrypted", "packing"])
def test_what_can_t_be_read_in_a_zip_is_named_and_left_out(tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "f.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("a", "b"):
            made.writestr(f"{name}/1.jpg", picture("grass", 0))
    raw = bytearray(archive.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    if damage == "content":
        raw[100] ^= 0xFF
    elif damage == "encrypted":
        raw[6] |= 1
        raw[entry + 8] |= 1
    else:
        raw[8] = raw[entry + 10] = 98
    archive.write_bytes(raw)
    files = labelled_folder.files_of(labelled_folder.opened(archive))[1]
    read = labelled_folder.read(files, SPEC)
    kept, repeated = without_repeats(files)
    assert [each.file.name for each in read.skipped] == [each.file.name for each in repeated]
    assert (len(read.pictures), len(kept), len(repeated)) == (1, 1, 1)


def test_a_class_whose_name_is_no_text_is_refused_before_anything_is_learnt(tmp_path: Path) -> None:
    fill(tmp_path, each=1)
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(LabelledFolderError, match="name is not UTF-8"):
        labelled_folder.files_of(tmp_path)
