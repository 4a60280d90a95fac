"""ONNX files of a few hundred bytes, written field by field, so that tests need no package for it.

The numbers are those of the fields in onnx.proto (ModelProto, GraphProto, NodeProto, TensorProto).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

Shape = Sequence[int | str]
FLOAT, UINT8, INT8, INT64, FLOAT16 = 1, 2, 3, 7, 10
_KINDS = {"float32": FLOAT, "uint8": UINT8, "int8": INT8, "int64": INT64, "float16": FLOAT16}


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def node(operation: str, inputs: Sequence[str], output: str) -> bytes:
    """A node without attributes."""
    return b"".join(_field(1, each) for each in inputs) + _field(2, output) + _field(4, operation)


def value(name: str, shape: Shape, kind: int = FLOAT) -> bytes:
    """An input or an output; a size that is a text is any."""
    sizes = b"".join(_field(1, _field(1 if isinstance(each, int) else 2, each)) for each in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, kind) + _field(2, sizes)))


def constant(name: str, content: NDArray[Any]) -> bytes:
    """A constant."""
    kind = _KINDS[str(content.dtype)]
    sizes = b"".join(_field(1, each) for each in content.shape)
    return sizes + _field(2, kind) + _field(8, name) + _field(9, content.tobytes())


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], constants: Sequence[bytes]
) -> bytes:
    """The file's content: IR version 8, operations of version 13."""
    graph = b"".join(_field(1, each) for each in nodes) + _field(2, "graph")
    graph += b"".join(_field(5, each) for each in constants)
    graph += b"".join(_field(11, each) for each in inputs) + b"".join(_field(12, each) for each in outputs)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13))


def metadata(entries: Mapping[str, str]) -> bytes:
    """What is added to a file's content to give it metadata."""
    return b"".join(_field(14, _field(1, key) + _field(2, value)) for key, value in entries.items())
