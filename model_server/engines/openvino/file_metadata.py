"""What an ONNX or a TensorFlow Lite file says about itself beside its network.

Owns the reading of those two formats' metadata, which OpenVINO does not keep. Reads bytes alone, and reports
nothing for a file that it does not understand: whether it is sound is for OpenVINO to say.
"""

import mmap
import struct
from pathlib import Path
from typing import Final

from model_server.engines import protobuf

_ONNX_METADATA: Final = 14
"""ModelProto.metadata_props: StringStringEntryProto, with key 1 and value 2."""

_TFLITE_NAME: Final = b"TFLITE_METADATA"
_NORMALISATION: Final = 1
"""ProcessUnitOptions' number of NormalizationOptions."""

# Fields of tables by their place in TensorFlow Lite's schema.fbs and metadata_schema.fbs.
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA: Final = 0
_MODEL_SUBGRAPHS: Final = 3
_SUBGRAPH_INPUTS: Final = 2
_TENSOR_STEPS: Final = 4
_STEP_TYPE, _STEP_OPTIONS = 0, 1
_OPTIONS_MEAN, _OPTIONS_STD = 0, 1

Normalising = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and deviations, one or one for each channel, for pixels of 0 to 255."""


def of_onnx(path: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file; empty if it has none or can't be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = {}
            for field in protobuf.fields(content, 0, len(content)):
                if field.number == _ONNX_METADATA:
                    entry = {
                        part.number: protobuf.text(content, part)
                        for part in protobuf.fields(content, field.at, field.end)
                    }
                    found[entry.get(1, b"").decode()] = entry.get(2, b"").decode()
            return found
    except (OSError, ValueError, IndexError):
        return {}


def of_tflite(path: Path) -> Normalising | None:
    """The normalisation of the first input in a TensorFlow Lite file's metadata, if it has one."""
    try:
        content = path.read_bytes()
        model = _Table(content, struct.unpack_from("<I", content)[0])
        for entry in model.tables(_MODEL_METADATA):
            if entry.text(_METADATA_NAME) == _TFLITE_NAME:
                buffer = model.tables(_MODEL_BUFFERS)[entry.number(_METADATA_BUFFER)]
                return _of_metadata(buffer.text(_BUFFER_DATA))
    except (OSError, struct.error, IndexError, UnicodeDecodeError):
        pass
    return None


def _of_metadata(content: bytes) -> Normalising | None:
    metadata = _Table(content, struct.unpack_from("<I", content)[0])
    for step in metadata.tables(_MODEL_SUBGRAPHS)[0].tables(_SUBGRAPH_INPUTS)[0].tables(_TENSOR_STEPS):
        if step.byte(_STEP_TYPE) == _NORMALISATION:
            options = step.table(_STEP_OPTIONS)
            mean, std = options.floats(_OPTIONS_MEAN), options.floats(_OPTIONS_STD)
            return (mean, std) if mean and std else None
    return None


class _Table:
    """A table of FlatBuffers: fields by their place in the schema; a missing one is empty."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at
        self._fields = at - self._unpack("<i", at)

    def _unpack(self, kind: str, at: int) -> int:
        return int(struct.unpack_from(kind, self._content, at)[0])

    def _place(self, field: int) -> int:
        """Where a field's value is; 0 if the table lacks it."""
        at = 4 + 2 * field
        if at >= self._unpack("<H", self._fields):
            return 0
        offset = self._unpack("<H", self._fields + at)
        return self._at + offset if offset else 0

    def number(self, field: int) -> int:
        """An unsigned integer of 32 bits."""
        place = self._place(field)
        return self._unpack("<I", place) if place else 0

    def byte(self, field: int) -> int:
        """A byte."""
        place = self._place(field)
        return self._unpack("<B", place) if place else 0

    def _vector(self, field: int) -> tuple[int, int]:
        """Where a vector's first element is, and how many it has."""
        place = self._place(field)
        if not place:
            return 0, 0
        at = place + self._unpack("<I", place)
        return at + 4, self._unpack("<I", at)

    def text(self, field: int) -> bytes:
        """A string, or a vector of bytes."""
        at, size = self._vector(field)
        return self._content[at : at + size]

    def floats(self, field: int) -> tuple[float, ...]:
        """A vector of float32."""
        at, size = self._vector(field)
        return struct.unpack_from(f"<{size}f", self._content, at)

    def table(self, field: int) -> "_Table":
        """A table. Raises IndexError if it is missing."""
        place = self._place(field)
        if not place:
            raise IndexError(field)
        return _Table(self._content, place + self._unpack("<I", place))

    def tables(self, field: int) -> "list[_Table]":
        """A vector of tables."""
        at, size = self._vector(field)
        places = range(at, at + 4 * size, 4)
        return [_Table(self._content, place + self._unpack("<I", place)) for place in places]
