"""The small graph in front of an ONNX network: pixels of a job to the numbers that the network takes.

Owns its operations, written as the bytes of an ONNX file. It runs where the network runs, so that pixels go
to a GPU as bytes, a quarter of the numbers that they become. Pure: runs nothing.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_server.engines.normalisation import ChannelNumbers
from model_server.engines.protobuf import written

PIXELS: Final = "pixels"
NUMBERS: Final = "numbers"
"""The names of its input and its output."""

# Numbers of the fields in onnx.proto, and of its kinds of numbers and of attributes.
_IR_VERSION, _OPERATIONS_VERSION = 8, 13
_KINDS: Final = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10, "float64": 11}
_INTEGER, _INTEGERS = 2, 7


def build(
    shape: tuple[int, int, int], normalise: ChannelNumbers, *, pixels: str, takes: str, layout: str
) -> bytes:
    """The graph from `pixels` (N, *shape), which has the channels last, to numbers of the type `takes`.

    Both are names of NumPy's types. A network of uint8 takes its pixels as they are.
    """
    height, width, channels = shape
    is_first = layout == "NCHW"
    graph = _Chain(PIXELS)
    if is_first:
        # While they are bytes; and what follows then runs along rows, not along three channels.
        graph.add("Transpose", _attribute("perm", [0, 3, 1, 2]))
    if normalise.is_bgr:
        backwards = np.arange(channels)[::-1].astype(np.int64)
        graph.add("Gather", _attribute("axis", 1 if is_first else 3), constant=backwards)
    if takes != "uint8":
        graph.add("Cast", _attribute("to", _KINDS["float32"]))
        for operation, numbers in (("Sub", normalise.mean), ("Div", normalise.std)):
            each = np.asarray(numbers, np.float32)
            graph.add(operation, constant=each.reshape(-1, 1, 1) if is_first else each)
        if takes != "float32":
            graph.add("Cast", _attribute("to", _KINDS[takes]))
    graph.add("Identity", output=NUMBERS)
    sizes = (channels, height, width) if is_first else (height, width, channels)
    return graph.model(_value(PIXELS, pixels, shape), _value(NUMBERS, takes, sizes))


class _Chain:
    """Operations, each of which takes what the one before gives."""

    def __init__(self, first: str) -> None:
        self._last = first
        self._graph = b""
        self._count = 0

    def add(
        self,
        operation: str,
        attribute: bytes = b"",
        *,
        constant: NDArray[np.generic] | None = None,
        output: str = "",
    ) -> None:
        self._count += 1
        output = output or f"step {self._count}"
        node = written(1, self._last)
        if constant is not None:
            name = f"constant {self._count}"
            node += written(1, name)
            self._graph += written(5, _constant(name, constant))
        node += written(2, output) + written(4, operation) + attribute
        self._graph += written(1, node)
        self._last = output

    def model(self, taken: bytes, given: bytes) -> bytes:
        """The file's content."""
        graph = self._graph + written(2, "pixels") + written(11, taken) + written(12, given)
        operations = written(1, "") + written(2, _OPERATIONS_VERSION)
        return written(1, _IR_VERSION) + written(7, graph) + written(8, operations)


def _value(name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    """An input or an output of (batch, *shape)."""
    sizes = written(1, written(2, "batch")) + b"".join(written(1, written(1, size)) for size in shape)
    tensor = written(1, _KINDS[kind]) + written(2, sizes)
    return written(1, name) + written(2, written(1, tensor))


def _constant(name: str, content: NDArray[np.generic]) -> bytes:
    sizes = b"".join(written(1, size) for size in content.shape)
    return sizes + written(2, _KINDS[str(content.dtype)]) + written(8, name) + written(9, content.tobytes())


def _attribute(name: str, value: int | list[int]) -> bytes:
    """A node's attribute: a whole number, or several."""
    if isinstance(value, int):
        return written(5, written(1, name) + written(3, value) + written(20, _INTEGER))
    numbers = b"".join(written(8, number) for number in value)
    return written(5, written(1, name) + numbers + written(20, _INTEGERS))
