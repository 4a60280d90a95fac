"""The metadata of ONNX and TensorFlow Lite files, and that anything else has none."""

from pathlib import Path
from typing import Any

import flatbuffers
import pytest

from model_server.engines.openvino import file_metadata
from tests.model_server.engines import onnx_file


def _table(builder: Any, fields: dict[int, tuple[str, int]]) -> int:  # noqa: ANN401
    """A table of fields: offsets of other objects, or numbers."""
    builder.StartObject(10)
    for slot, (kind, value) in fields.items():
        if kind == "offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        elif kind == "byte":
            builder.PrependUint8Slot(slot, value, 0)
        else:
            builder.PrependUint32Slot(slot, value, 0)
    return int(builder.EndObject())


def _tables(builder: Any, offsets: list[int]) -> tuple[str, int]:  # noqa: ANN401
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return "offset", builder.EndVector()


def _floats(builder: Any, numbers: list[float]) -> tuple[str, int]:  # noqa: ANN401
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependFloat32(number)
    return "offset", builder.EndVector()


def tflite(mean: list[float], std: list[float], *, step: int = 1) -> bytes:
    """A model without a network, with the metadata of one input; `step` 1 is a normalisation."""
    inner = flatbuffers.Builder(256)
    options = _table(inner, {0: _floats(inner, mean), 1: _floats(inner, std)})
    process = _table(inner, {0: ("byte", step), 1: ("offset", options)})
    tensor = _table(inner, {4: _tables(inner, [process])})
    graph = _table(inner, {2: _tables(inner, [tensor])})
    inner.Finish(_table(inner, {3: _tables(inner, [graph])}), b"M001")

    outer = flatbuffers.Builder(512)
    buffers = [
        _table(outer, {}),
        _table(outer, {0: ("offset", outer.CreateByteVector(bytes(inner.Output())))}),
    ]
    names = [outer.CreateString(name) for name in ("min_runtime_version", "TFLITE_METADATA")]
    entries = [_table(outer, {0: ("offset", name), 1: ("number", place)}) for place, name in enumerate(names)]
    outer.Finish(_table(outer, {4: _tables(outer, buffers), 6: _tables(outer, entries)}), b"TFL3")
    return bytes(outer.Output())


def test_the_normalisation_of_a_tflite_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(tflite([127.5], [128.0]))
    assert file_metadata.of_tflite(path) == ((127.5,), (128.0,))
    path.write_bytes(tflite([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))
    assert file_metadata.of_tflite(path) == ((1, 2, 3), (4, 5, 6))
    path.write_bytes(tflite([127.5], [128.0], step=2))
    assert file_metadata.of_tflite(path) is None


@pytest.mark.parametrize("most", [0, 3, 8, 30, 60, 120, 200])
def test_a_file_that_is_cut_short_has_no_metadata(tmp_path: Path, most: int) -> None:
    path = tmp_path / "net"
    path.write_bytes(tflite([127.5], [128.0])[:most])
    assert file_metadata.of_tflite(path) is None
    path.write_bytes(onnx_file.metadata({"a": "b" * 200})[:most])
    assert file_metadata.of_onnx(path) == {}


def test_the_metadata_of_an_onnx_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert file_metadata.of_onnx(path) == {}
    content = onnx_file.model([], [], [], [])
    path.write_bytes(content)
    assert file_metadata.of_onnx(path) == {}
    entries = {"names": "{0: 'cat'}", "task": "detect"}
    path.write_bytes(content + onnx_file.metadata(entries))
    assert file_metadata.of_onnx(path) == entries
