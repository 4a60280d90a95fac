"""ONNX files, written: nodes, constants, inputs and outputs, as the bytes of onnx.proto.

Owns the numbers of the fields, so that writing a small graph does not need the package `onnx`. Pure: knows no
model, and checks nothing.
"""

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from model_server.engines.protobuf import written

_IR_VERSION, _OPERATIONS_VERSION = 8, 13
KINDS: Final = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10, "float64": 11}
"""TensorProto.DataType of NumPy's types."""
_TEXT, _INTEGER, _INTEGERS = 3, 2, 7
"""AttributeProto.AttributeType."""


def node(operation: str, inputs: Sequence[str], output: str, *attributes: bytes) -> bytes:
    """An operation of one output."""
    taken = b"".join(written(1, each) for each in inputs)
    return taken + written(2, output) + written(4, operation) + b"".join(attributes)


def attribute(name: str, value: int | str | Sequence[int]) -> bytes:
    """A node's attribute: a whole number, a text or several whole numbers."""
    if isinstance(value, int):
        return written(5, written(1, name) + written(3, value) + written(20, _INTEGER))
    if isinstance(value, str):
        return written(5, written(1, name) + written(4, value) + written(20, _TEXT))
    numbers = b"".join(written(8, number) for number in value)
    return written(5, written(1, name) + numbers + written(20, _INTEGERS))


def constant(name: str, content: NDArray[Any]) -> bytes:
    """An array of the graph's own."""
    sizes = b"".join(written(1, size) for size in content.shape)
    return sizes + written(2, KINDS[str(content.dtype)]) + written(8, name) + written(9, content.tobytes())


def value(name: str, kind: str, shape: Sequence[int]) -> bytes:
    """An input or an output of (batch, *shape), of a type that NumPy names `kind`."""
    sizes = written(1, written(2, "batch")) + b"".join(written(1, written(1, size)) for size in shape)
    return written(1, name) + written(2, written(1, written(1, KINDS[kind]) + written(2, sizes)))


def model(nodes: Sequence[bytes], constants: Sequence[bytes], taken: bytes, given: bytes) -> bytes:
    """The file's content, of one input and one output."""
    graph = b"".join(written(1, each) for each in nodes) + written(2, "graph")
    graph += b"".join(written(5, each) for each in constants) + written(11, taken) + written(12, given)
    operations = written(1, "") + written(2, _OPERATIONS_VERSION)
    return written(1, _IR_VERSION) + written(7, graph) + written(8, operations)
