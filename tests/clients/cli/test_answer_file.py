"""What a command finds in the file that an earlier one wrote, or was killed while writing."""

import json
import os
from pathlib import Path

import pytest

from clients import Answer, PictureReply, RequestRefusal
from clients.cli import answer_file
from clients.cli.answer_file import NotAnswers

ALL = {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}


def written(path: str, model: str = "m") -> bytes:
    raw = {"success": True, "model": model, "new": [1, {"x": 0.1}]}
    reply = PictureReply(picture=path, answer=Answer(success=True, model=model, raw=raw))
    return answer_file.line(path, reply)


FAILED = answer_file.line("c.jpg", PictureReply(picture="c.jpg", error=RequestRefusal("x", "Why.")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two answers and a failure."""
    path = tmp_path / "answers.jsonl"
    path.write_bytes(written("a.jpg") + FAILED + written("b.jpg"))
    return path


def test_a_line_is_the_file_and_all_that_the_service_said() -> None:
    assert json.loads(written("a.jpg")) == {
        "file": "a.jpg",
        "success": True,
        "model": "m",
        "new": [1, {"x": 0.1}],
    }
    assert json.loads(FAILED) == {
        "file": "c.jpg",
        "success": False,
        "error": {"code": "x", "message": "Why."},
        "request_id": "",
    }
    unread = PictureReply(picture="d.jpg", error=FileNotFoundError(2, "No such file"))
    assert json.loads(answer_file.line("d.jpg", unread))["error"] == {
        "code": "unreadable_file",
        "message": "No such file",
    }


def test_a_name_that_is_no_unicode_has_a_line_and_is_found_again(tmp_path: Path) -> None:
    path = os.fsdecode(b"\xff.jpg")
    file = tmp_path / "answers.jsonl"
    file.write_bytes(written(path))
    names = {answer_file.name(path)}
    assert answer_file.resume(file, names, None) == names


def test_without_a_file_nothing_is_answered(tmp_path: Path) -> None:
    assert answer_file.resume(tmp_path / "answers.jsonl", ALL, None) == set()
    assert answer_file.resume(Path(os.devnull), ALL, None) == set()


def test_answers_count_and_failures_that_are_asked_again_leave(file: Path) -> None:
    assert answer_file.resume(file, ALL, None) == {"a.jpg", "b.jpg"}
    assert file.read_bytes() == written("a.jpg") + written("b.jpg")
    assert list(file.parent.iterdir()) == [file]


def test_failures_of_other_pictures_stay(file: Path) -> None:
    before = file.read_bytes()
    assert answer_file.resume(file, {"a.jpg"}, None) == {"a.jpg", "b.jpg"}
    assert file.read_bytes() == before


def test_another_model_s_answers_do_not_count_and_stay(file: Path) -> None:
    with file.open("ab") as added:
        added.write(written("d.jpg", "other"))
    assert answer_file.resume(file, ALL, "other") == {"d.jpg"}
    assert file.read_bytes().startswith(written("a.jpg"))


@pytest.mark.parametrize("length", range(1, len(written("d.jpg"))))
def test_a_line_that_was_cut_anywhere_is_asked_again(file: Path, length: int) -> None:
    with file.open("ab") as added:
        added.write(written("d.jpg")[:length])
    assert answer_file.resume(file, {"a.jpg"}, None) == {"a.jpg", "b.jpg"}
    assert file.read_bytes() == written("a.jpg") + FAILED + written("b.jpg")


def test_a_cut_line_and_failures_leave_together(file: Path) -> None:
    with file.open("ab") as added:
        added.write(written("d.jpg")[:-1])
    assert answer_file.resume(file, ALL, None) == {"a.jpg", "b.jpg"}
    assert file.read_bytes() == written("a.jpg") + written("b.jpg")


@pytest.mark.parametrize("content", [b"# Notes\n", b"\xff\xd8\xff\xe0", b"x", b'{"other": 1}\n', b"\n"])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(content)
    with pytest.raises(NotAnswers, match=r"photo\.jpg is not a file of answers: see its line 1"):
        answer_file.resume(file, ALL, None)
    assert file.read_bytes() == content


def test_a_link_to_the_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    file.chmod(0o640)
    answer_file.resume(link, ALL, None)
    assert link.is_symlink()
    assert FAILED not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o640
