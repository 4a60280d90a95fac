"""Which files the command's arguments stand for."""

from pathlib import Path

import pytest

from clients.cli.picture_paths import pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, other files, hidden ones, and a folder within that has a link back."""
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", "noending", "in/c.webp", ".thumbs/d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    return tmp_path


def test_a_folder_stands_for_its_pictures(folder: Path) -> None:
    assert pictures((str(folder),), recursive=False) == [f"{folder}/a.png", f"{folder}/b.JPG"]


def test_folders_within_count_if_they_are_asked_for_and_links_lead_nowhere(folder: Path) -> None:
    paths = pictures((str(folder),), recursive=True)
    assert paths == [f"{folder}/a.png", f"{folder}/b.JPG", f"{folder}/in/c.webp"]


def test_a_file_that_is_named_counts_whatever_its_ending_and_once(folder: Path) -> None:
    names = (f"{folder}/notes.txt", f"{folder}/b.JPG", str(folder), f"{folder}/missing.jpg")
    assert pictures(names, recursive=False) == [
        f"{folder}/notes.txt",
        f"{folder}/b.JPG",
        f"{folder}/a.png",
        f"{folder}/missing.jpg",
    ]
