"""The bytes of Protocol Buffers, as ONNX files have them: read field by field, and written.

Owns that encoding alone, so that neither reading what a file says nor writing a small graph needs the package
`onnx`. Knows no message: the numbers of the fields are its callers'.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

Content = bytes | mmap.mmap

_MOST: Final = 1 << 16
"""Bytes of a field that are copied: a longer one is weights."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: `number` in its schema, and its place in the content, or a whole number."""

    number: int
    at: int
    end: int
    value: int = 0


def fields(content: Content, at: int, end: int) -> Iterator[Field]:
    """The fields of bytes or whole numbers of a message. Raises ValueError or IndexError if it is none."""
    while at < end:
        key, at = _varint(content, at)
        match key & 7:
            case 0:
                value, stop = _varint(content, at)
                yield Field(key >> 3, at, stop, value)
                at = stop
            case 1:
                at += 8
            case 2:
                size, at = _varint(content, at)
                if size > end - at:
                    raise ValueError(size)  # cut short
                yield Field(key >> 3, at, at + size)
                at += size
            case 5:
                at += 4
            case _:
                raise ValueError(key)


def text(content: Content, field: Field) -> bytes:
    """The bytes of a field; of a long one, which is no text, none."""
    return bytes(content[field.at : field.end]) if field.end - field.at <= _MOST else b""


def written(number: int, value: int | str | bytes) -> bytes:
    """A field with its number, for a message that is written."""
    if isinstance(value, int):
        return _as_varint(number << 3) + _as_varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _as_varint(number << 3 | 2) + _as_varint(len(content)) + content


def _varint(content: Content, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _as_varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
