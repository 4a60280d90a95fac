"""Messages between a model server and the process of a model's hooks.py: JSON and arrays, never pickle.

Owns the format: the lengths of the header and of the body, a header in JSON, then the arrays' bytes in C
order. Knows nothing of what the messages mean.
"""

import math
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_LENGTHS: Final = struct.Struct("<IQ")

_MOST_HEADER: Final = 16 * 1024 * 1024
"""Bytes: a thousand labels are 30 KB, an answer's JSON is 1 MB at most."""

_ALIGNED: Final = 64
"""Every array begins at a multiple of so many bytes."""

_KINDS: Final = "biuf"
"""NumPy's kinds of numbers that may travel: Booleans, integers, floats. Objects are pickles."""


class ArrayHeader(msgspec.Struct, frozen=True):
    """What an array is, apart from its numbers."""

    dtype: str
    shape: tuple[int, ...]
    name: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request or a reply; its arrays follow it."""

    kind: str
    """A request's function, or what became of it: `ready`, `done` or `failed`."""
    names: tuple[str, ...] = ()
    """Of a reply `ready`: what hooks.py defines."""
    constants: dict[str, Any] = {}
    """Of the first request: what every context has. Its arrays are the bytes of the folder's Python files."""
    context: dict[str, Any] = {}
    """Of a request `postprocess`: what this picture's context has besides."""
    json: str = ""
    """Of a reply to `postprocess`: what it returned."""
    error: str = ""
    """Of a reply `failed`: the last line of the traceback."""
    traceback: str = ""
    arrays: tuple[ArrayHeader, ...] = ()


class MalformedFrame(ValueError):
    """What came is not a message of ours."""


def send(
    to: socket.socket, message: Message, arrays: Sequence[NDArray[Any]] = (), *, until: float | None = None
) -> None:
    """Write a message, whose `arrays` describe these, by that monotonic time. Raises OSError."""
    contiguous = [np.ascontiguousarray(array) for array in arrays]
    header = msgspec.json.encode(message)
    size = sum(_padded(array.nbytes) for array in contiguous)
    _set_timeout(to, until)
    to.sendall(_LENGTHS.pack(len(header), size) + header)
    for array in contiguous:
        _set_timeout(to, until)
        to.sendall(array.reshape(-1).view(np.uint8).data)
        to.sendall(bytes(_padded(array.nbytes) - array.nbytes))


def receive(
    source: socket.socket, *, most_bytes: int, until: float | None = None
) -> tuple[Message, list[NDArray[Any]]]:
    """Read a message and its arrays, which may be written to.

    Raises EOFError at the end, TimeoutError, OSError, or MalformedFrame, for a body above `most_bytes` too.
    """
    header_size, size = _LENGTHS.unpack(_exactly(source, _LENGTHS.size, until))
    if header_size > _MOST_HEADER or size > most_bytes:
        raise MalformedFrame(f"a message of {header_size} and {size} bytes is too large")
    try:
        message = msgspec.json.decode(_exactly(source, header_size, until), type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedFrame(str(error)) from None
    return message, _arrays(message.arrays, _exactly(source, size, until))


def headers(arrays: Sequence[NDArray[Any]], names: Sequence[str] = ()) -> tuple[ArrayHeader, ...]:
    """The arrays' headers. Raises ValueError for an array whose items are not numbers."""
    for array in arrays:
        if array.dtype.kind not in _KINDS:
            raise ValueError(f"an array of {array.dtype} is not numbers")
    return tuple(
        ArrayHeader(array.dtype.str, array.shape, names[number] if names else "")
        for number, array in enumerate(arrays)
    )


def _arrays(described: tuple[ArrayHeader, ...], body: bytearray) -> list[NDArray[Any]]:
    arrays, offset = [], 0
    for header in described:
        dtype = _dtype(header.dtype)
        if min(header.shape, default=0) < 0:
            raise MalformedFrame(f"an array can't have the shape {header.shape}")
        count = math.prod(header.shape)
        if offset + count * dtype.itemsize > len(body):
            raise MalformedFrame(f"{len(body)} bytes are too few for {header.shape} of {dtype}")
        arrays.append(np.frombuffer(body, dtype, count, offset if count else 0).reshape(header.shape))
        offset += _padded(count * dtype.itemsize)
    if offset != len(body):
        raise MalformedFrame(f"{len(body)} bytes do not fit the arrays")
    return arrays


def _dtype(text: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise MalformedFrame(f"{text!r} is not a type of numbers") from error
    if dtype.kind not in _KINDS:
        raise MalformedFrame(f"{text!r} is not a type of numbers")
    return dtype


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _exactly(source: socket.socket, size: int, until: float | None) -> bytearray:
    content = bytearray(size)
    view = memoryview(content)
    while view:
        _set_timeout(source, until)
        count = source.recv_into(view)
        if not count:
            raise EOFError("the other process has ended")
        view = view[count:]
    return content


def _set_timeout(of: socket.socket, until: float | None) -> None:
    if until is not None:
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        of.settimeout(left_s)
