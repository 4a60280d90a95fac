"""Labels that are no table are refused with their line, before a client could get half a label."""

from pathlib import Path

import pytest

from broker.messages import Label
from model_server.catalogue import labels
from model_server.catalogue.toml_errors import CatalogueError


def _read(tmp_path: Path, *rows: str) -> tuple[Label, ...]:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(["index,class_id,label", *rows, ""]))
    return labels.read(path)


def test_a_label_may_hold_commas_quotes_and_nothing(tmp_path: Path) -> None:
    read = _read(tmp_path, '0,n1,"tench, Tinca tinca"', '1,n2,"the ""pug"""', "2,,")
    assert [each.label for each in read] == ["tench, Tinca tinca", 'the "pug"', ""]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,a", "line 3: this line must have as many columns"),
        ("1,n1,tench, Tinca tinca", "line 3: this line must have as many columns"),
        ('1,n1,"tench', "line 3: this is not CSV"),
        ('1,n1,"tench"x', "line 3: this is not CSV"),
        ("2,n1,tench", "line 3: the index must be 1, not '2'"),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_line(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(CatalogueError, match=problem):
        _read(tmp_path, "0,n0,a", row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 Class A\n1 Class 2\n", ["Class A", "Class 2"]),
        ("0: a\n1: b", ["a", "b"]),
        ("0\n1\n2", ["0", "1", "2"]),
        ("1 a\n2 b", ["1 a", "2 b"]),
        ("0 a\nb", ["0 a", "b"]),
        ("50 mm\n85 mm", ["50 mm", "85 mm"]),
    ],
)
def test_lines_that_all_begin_with_their_index_are_labels_without_it(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text(text)
    read = labels.read(path)
    assert [each.label for each in read] == expected
    assert [each.class_id for each in read] == [str(index) for index in range(len(expected))]


@pytest.mark.parametrize("hidden", ["\x1b", "\x00", "\x7f", "\x85", "\t", "\u2028", "\u202e", "\u2066"])
def test_a_label_that_would_play_tricks_where_it_is_shown_is_refused(tmp_path: Path, hidden: str) -> None:
    code = f"U\\+{ord(hidden):04X}"
    for row in (f"1,n1,in{hidden}gpj", f"1,n{hidden}1,a"):
        with pytest.raises(CatalogueError, match=f"line 3: the label has the invisible character {code}"):
            _read(tmp_path, "0,n0,a", row)
    path = tmp_path / "labels.txt"
    path.write_text(f"a\nb{hidden}c\n", newline="")
    with pytest.raises(CatalogueError, match=f"line 2: the label has the invisible character {code}"):
        labels.read(path)


def test_labels_of_every_script_are_taken(tmp_path: Path) -> None:
    names = [
        "\u05e9\u05dc\u05d5\u05dd\u200f",
        "\u0645\u06cc\u200c\u062e\u0648",
        "\u0937\u094d\u200d",
        "Käse",
        "猫",
    ]
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(names), "utf-8")
    assert [each.label for each in labels.read(path)] == names
