"""The errors that refuse a model.toml: the file, the line, the key, what is wrong and what is allowed.

Owns finding a key's line in the text, and describing a field's allowed values from its type. Knows no field.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import inspect

SEE: Final = "docs/models.md describes every field."
_SEE: Final = {
    "detection": "docs/detection.md describes [detection].",
    "pipeline": "docs/pipelines.md describes [pipeline].",
}

_LINES: Final = 'A line is key = value, [table] or # a comment; a string is in straight quotes ("like this").'


class CatalogueError(ValueError):
    """A model's folder is missing or invalid; the message names the file and what is allowed."""


def of_key(path: Path, text: str, key: str, problem: str) -> CatalogueError:
    """The error for a key (`input.fit`, say); `text` is the file's content."""
    where = f"{path}, line {_line(text, key.split('.'))}"
    return CatalogueError(f"{where}, {key}: {problem} {_SEE.get(key.split('.', maxsplit=1)[0], SEE)}")


def of_value(
    path: Path, text: str, error: msgspec.ValidationError, kind: type, within: str = ""
) -> CatalogueError:
    """The error for a value that msgspec refused when it read `text`, or its table `within`, as a `kind`."""
    message, _, place = str(error).partition(" - at `$")
    keys = re.findall(r"\.([\w-]+)", place)
    unknown = re.search(r"unknown field `(.+?)`", message)
    missing = re.search(r"required field `(.+?)`", message)
    outer = within.split(".")[1:]
    if unknown:
        problem = f"{message}. {_fields_of(kind, outer, keys)}"
        return of_key(path, text, ".".join([*outer, *keys, unknown[1]]), problem)
    keys += [missing[1]] if missing else []
    return of_key(path, text, ".".join([*outer, *keys]), f"{message}. {_allowed(kind, keys)}")


def of_syntax(path: Path, text: str, error: ValueError) -> CatalogueError:
    """The error for a `text` that is not TOML, with tomllib's own explanation."""
    line = _line_of_syntax(text, str(error))
    return CatalogueError(f"{path}, line {line}: this is not valid TOML: {error}. {_LINES} {SEE}")


def _line_of_syntax(text: str, message: str) -> int:
    """The line that tomllib names; for a string that runs to the file's end, the line where it begins."""
    named_line = re.search(r"at line (\d+)", message)
    if named_line:
        return int(named_line[1])
    lines = text.rstrip().splitlines()
    quote = "'" if message.startswith("Expected") else '"'
    odd = (number for number, line in enumerate(lines, 1) if line.count(quote) % 2)
    return next(odd, max(1, len(lines)))


def _line(text: str, keys: list[str]) -> int:
    """The line, from 1, of a key; if it is missing, of the table that it belongs in; else the first."""
    for length in range(len(keys), 0, -1):
        for number, line_keys in _keys_by_line(text):
            if line_keys == keys[:length]:
                return number
    return 1


def _keys_by_line(text: str) -> Iterator[tuple[int, list[str]]]:
    """The line and the keys of every table header and every `key = value`."""
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
    """The sentence that says which values a key may have."""
    for table in _at(kind, keys[:-1]):
        if isinstance(table, inspect.StructType) and table.tag_field == keys[-1]:
            tags = [str(other.tag) for other in _at(kind, keys[:-1]) if isinstance(other, inspect.StructType)]
            return f"Allowed: {', '.join(tags)}."
    return f"Allowed: {_words(_at(kind, keys))}."


def _fields_of(kind: type, outer: list[str], keys: list[str]) -> str:
    """The sentence that says which keys a table may have."""
    where = f"[{'.'.join([*outer, *keys])}]" if outer or keys else "A model.toml"
    return f"{where} is {_words(_at(kind, keys))}."


def _at(kind: type, keys: list[str]) -> list[inspect.Type]:
    """The types that a key's value may have."""
    types: list[inspect.Type] = [inspect.type_info(kind)]
    for key in keys:
        below = [field.type for outer in types for field in _fields(outer) if field.encode_name == key]
        types = [alternative for field in below for alternative in _alternatives(field)]
    return types


def _fields(kind: inspect.Type) -> tuple[inspect.Field, ...]:
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _words(kinds: list[inspect.Type]) -> str:
    return "; or ".join(_word(kind) for kind in kinds if not isinstance(kind, inspect.NoneType))


def _word(kind: Any) -> str:  # noqa: ANN401 - each of msgspec's kinds has its own attributes
    match kind:
        case inspect.LiteralType():
            return ", ".join(map(str, kind.values))
        case inspect.EnumType():
            return ", ".join(member.value for member in kind.cls)
        case inspect.IntType():
            above = f", at least {kind.ge}" if kind.le is None else f" from {kind.ge} to {kind.le}"
            return f"a whole number{above}"
        case inspect.FloatType():
            low = f"from {kind.ge:g}" if kind.gt is None else f"above {kind.gt:g}"
            return f"a number {low} to {kind.le:g}"
        case inspect.VarTupleType(item_type=item) | inspect.TupleType(item_types=(item, *_)):
            return f"a list, each {_word(item)}"
        case inspect.DictType():
            return f"a table, each value {_word(kind.value_type)}"
        case inspect.StructType():
            fields = ", ".join(field.encode_name for field in kind.fields)
            return (
                f"{kind.tag_field} = {kind.tag!r} with {fields}" if kind.tag_field else f"a table of {fields}"
            )
    return "a text"
