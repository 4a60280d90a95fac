"""Labels that are no table are refused with their line, before a client could get half a label."""

from pathlib import Path

import pytest

from model_server.catalogue import labels
from model_server.catalogue.toml_errors import CatalogueError


def _read(tmp_path: Path, *rows: str) -> tuple[labels.Label, ...]:
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
