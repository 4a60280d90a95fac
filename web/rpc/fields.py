"""How many fields a message has: bounded before it is parsed, for a field of two bytes may take fifty.

Owns the bound. Reads no value: protoc's classes do.
"""

from typing import Any, Final

from broker.errors import ClientError

MOST: Final = 10_000
"""Requests have a few dozen. 20 MB of empty inputs are ten million, which took 1 GB once parsed."""

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_TYPE_BITS: Final = 3
_LONGEST_VARINT: Final = 10


def require_few(data: bytes, descriptor: Any) -> None:  # noqa: ANN401 - protobuf's
    """Raise ClientError for a message of this type with more than MOST fields, or one that can't be read."""
    left = MOST
    open_: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    while open_:
        at, end, kind = open_.pop()
        fields = kind.fields_by_number
        while at < end:
            left -= 1
            if left < 0:
                raise ClientError(f"The message has more than {MOST} fields.")
            tag, at = _varint(data, at, end)
            wire_type = tag & 7
            if wire_type == _BYTES:
                size, at = _varint(data, at, end)
                field = fields.get(tag >> _TYPE_BITS)
                if field is not None and field.message_type is not None and at + size <= end:
                    open_.append((at, at + size, field.message_type))
                at += size
            elif wire_type == _VARINT:
                _, at = _varint(data, at, end)
            elif wire_type in (_FIXED_64, _FIXED_32):
                at += 8 if wire_type == _FIXED_64 else 4
            else:
                raise unreadable()
        if at > end:
            raise unreadable()


def unreadable() -> ClientError:
    """The refusal of bytes that are no message of the method."""
    return ClientError("The message can't be read: its bytes are no message of this method.")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number, and where it ends. Raises ClientError."""
    number = 0
    for place, byte in enumerate(data[at : min(end, at + _LONGEST_VARINT)]):
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, at + place + 1
    raise unreadable()
