"""The words that refuse a model.toml: the file, the line, the key, what is wrong and what is allowed.

Owns finding a key's line in the text, and saying what a field takes, as its type has it. Knows no field.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

SEE: Final = "docs/models.md describes every field."
_SEE_DETECTION: Final = "docs/detection.md describes [detection]."

_LINES: Final = 'A line is key = value, [table] or # a comment; a string is in straight quotes ("like this").'


class CatalogueError(ValueError):
    """A model's folder is missing or wrong; the message names the file and what it may hold."""


def of_key(path: Path, text: str, key: str, problem: str) -> CatalogueError:
    """The error for a key such as `input.fit`; `text` is what the file holds."""
    where = f"{path}, line {_line(text, key.split('.'))}"
    see = _SEE_DETECTION if key.split(".", maxsplit=1)[0] == "detection" else SEE
    return CatalogueError(f"{where}, {key}: {problem} {see}")


def of_value(path: Path, text: str, error: msgspec.ValidationError, kind: type) -> CatalogueError:
    """The error for what msgspec refused when it read `text` as a `kind`."""
    message, _, place = str(error).partition(" - at `$")
    keys = re.findall(r"\.([\w-]+)", place)
    unknown = re.search(r"unknown field `(.+?)`", message)
    missing = re.search(r"required field `(.+?)`", message)
    if unknown:
        return of_key(path, text, ".".join([*keys, unknown[1]]), f"{message}. {_fields_of(kind, keys)}")
    keys += [missing[1]] if missing else []
    return of_key(path, text, ".".join(keys), f"{message}. {_allowed(kind, keys)}")


def of_syntax(path: Path, text: str, error: ValueError) -> CatalogueError:
    """The error for a `text` that is not TOML; tomllib says what is wrong."""
    line = _line_of_syntax(text, str(error))
    return CatalogueError(f"{path}, line {line}: this is not valid TOML: {error}. {_LINES} {SEE}")


def _line_of_syntax(text: str, said: str) -> int:
    """The line that tomllib names; of a text that runs to the file's end, that in which it begins."""
    told = re.search(r"at line (\d+)", said)
    if told:
        return int(told[1])
    lines = text.rstrip().splitlines()
    quote = "'" if said.startswith("Expected") else '"'
    odd = (number for number, line in enumerate(lines, 1) if line.count(quote) % 2)
    return next(odd, max(1, len(lines)))


def _line(text: str, keys: list[str]) -> int:
    """The line, from 1, of a key; of the table that it would be in if it is not there; else the first."""
    for length in range(len(keys), 0, -1):
        for number, found in _keys_by_line(text):
            if found == keys[:length]:
                return number
    return 1


def _keys_by_line(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line and keys of every table's header and every `key = value`."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[\s*([\w.\- \"']+?)\s*\]", line)
        assigned = re.match(r"\s*([\w.\-\"']+)\s*=", line)
        if header:
            table = _parts(header[1])
            yield number, table
        elif assigned:
            yield number, [*table, *_parts(assigned[1])]


def _parts(dotted: str) -> list[str]:
    return [part.strip(" \"'") for part in dotted.split(".")]


def _allowed(kind: type, keys: list[str]) -> str:
    """What may stand at a key."""
    for each in _at(kind, keys[:-1]):
        if isinstance(each, inspect.StructType) and each.tag_field == keys[-1]:
            tags = [str(other.tag) for other in _at(kind, keys[:-1]) if isinstance(other, inspect.StructType)]
            return f"Allowed: {', '.join(tags)}."
    return f"Allowed: {_words(_at(kind, keys))}."


def _fields_of(kind: type, keys: list[str]) -> str:
    """What may stand in a table."""
    where = f"[{'.'.join(keys)}]" if keys else "A model.toml"
    return f"{where} is {_words(_at(kind, keys))}."


def _at(kind: type, keys: list[str]) -> list[inspect.Type]:
    """The types that may stand at a key."""
    at: list[inspect.Type] = [inspect.type_info(kind)]
    for key in keys:
        below = [field.type for each in at for field in _fields(each) if field.encode_name == key]
        at = [each for field in below for each in _alternatives(field)]
    return at


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _words(kinds: list[inspect.Type]) -> str:
    said = [_word(each) for each in kinds if not isinstance(each, inspect.NoneType)]
    return "; or ".join(said)


def _word(kind: Any) -> str:  # noqa: ANN401 - each of msgspec's kinds has attributes of its own
    match kind:
        case inspect.LiteralType():
            return ", ".join(map(str, kind.values))
        case inspect.EnumType():
            return ", ".join(each.value for each in kind.cls)
        case inspect.IntType() if kind.le is not None:
            return f"a whole number from {kind.ge} to {kind.le}"
        case inspect.IntType():
            return f"a whole number, at least {kind.ge}"
        case inspect.FloatType():
            low = f"from {kind.ge:g}" if kind.gt is None else f"above {kind.gt:g}"
            return f"a number {low} to {kind.le:g}"
        case inspect.VarTupleType():
            return f"a list, each {_word(kind.item_type)}"
        case inspect.StructType():
            fields = ", ".join(field.encode_name for field in kind.fields)
            return (
                f"{kind.tag_field} = {kind.tag!r} with {fields}" if kind.tag_field else f"a table of {fields}"
            )
    return "a text"
