"""The labels of a model: a CSV with a row for each class, or plain text with a line for each.

Owns the reading of both, and the messages about a file that is neither.
"""

import csv
import io
import re
import unicodedata
from pathlib import Path
from typing import Final

from broker.messages import Label
from model_server.catalogue.toml_errors import CatalogueError

_NUMBERED: Final = re.compile(r"(\d{1,6})[ \t:,]\s*(.+)")
"""A line with its index, as Teachable Machine writes them: `0 Class A`."""

_DIRECTIONS: Final = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""They turn the direction of what stands after them in a page, a log or a terminal: gpj.exe reads exe.jpg."""


def read(path: Path) -> tuple[Label, ...]:
    """Read a `.csv` by its columns; any other file line by line, where a class's id is its index.

    If every line begins with its index, that is no part of the label. Raises CatalogueError, for a label with
    control characters, too: labels are shown to people as they are.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: the labels can't be read ({error}).") from None
    return _table(path, text) if path.suffix.lower() == ".csv" else _lines(path, text)


def _table(path: Path, text: str) -> tuple[Label, ...]:
    """Read a CSV with the header index,class_id,label and the indices 0, 1, 2, ..."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CatalogueError(f"{path}, line {reader.line_num + 1}: this is not CSV ({error}).") from None
    if not rows or not {"index", "class_id", "label"} <= set(rows[0][1]):
        raise CatalogueError(
            f"{path}: the file needs the columns index,class_id,label and a row for each class"
        )
    for number, (line, row) in enumerate(rows):
        if None in row or None in row.values():
            raise CatalogueError(
                f"{path}, line {line}: this line must have as many columns as the first; a label with a "
                'comma needs quotes: "tench, Tinca tinca"'
            )
        if row["index"] != str(number):
            raise CatalogueError(f"{path}, line {line}: the index must be {number}, not {row['index']!r}")
        _require_visible(path, line, row["class_id"] + row["label"])
    return tuple(Label(row["class_id"], row["label"]) for _, row in rows)


def _lines(path: Path, text: str) -> tuple[Label, ...]:
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise CatalogueError(f"{path}: it needs a line for each class")
    if "" in lines:
        raise CatalogueError(
            f"{path}, line {lines.index('') + 1}: this line is empty, but each names a class"
        )
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    if all(match and int(match[1]) == index for index, match in enumerate(numbered)):
        lines = [match[2] for match in numbered if match]
    for number, line in enumerate(lines, start=1):
        _require_visible(path, number, line)
    return tuple(Label(str(index), line) for index, line in enumerate(lines))


def _require_visible(path: Path, line: int, text: str) -> None:
    for letter in text:
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp") or letter in _DIRECTIONS:
            raise CatalogueError(
                f"{path}, line {line}: the label has the invisible character U+{ord(letter):04X}: remove it; "
                "labels are shown to people as they are"
            )
