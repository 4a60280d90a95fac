"""Networks in int8: what a part costs alone, Keras' GELU, and every source by NNCF itself."""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_server.catalogue.model_spec import read_model
from model_server.commands import int8_network, quantise
from model_server.commands.picture_folder import FolderPictures
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import runtime
from model_server.engines.openvino.engine import OpenVINOEngine
from model_server.engines.openvino.store import Store
from tests.model_server.engines import onnx_file
from tests.model_server.engines.openvino.test_tensorflow_imports import SOURCES, TOML, exports

__all__ = ["exports"]

PIXELS = np.random.default_rng(2).integers(0, 256, (24, 6), dtype=np.uint8)


def _layers(*coarse: int) -> Any:  # noqa: ANN401 - an openvino.Model
    """Three layers of six numbers, each rounded before its product; those in `coarse` to three levels."""
    build = runtime.operations()
    parameter = build.parameter([-1, 6], np.uint8, name="picture")
    numbers = build.divide(build.convert(parameter, "f32"), build.constant(np.float32(255)))
    weights = np.random.default_rng(1).normal(size=(3, 6, 6)).astype(np.float32)
    for layer in range(3):
        ends = [build.constant(np.float32(end)) for end in (-4, 4)]
        levels = 3 if layer in coarse else 256
        numbers = build.fake_quantize(numbers, *ends, *ends, levels, name=f"rounding {layer}")
        turned = build.reshape(numbers, np.array([-1, 6]), special_zero=False)
        numbers = build.matmul(turned, weights[layer], transpose_a=False, transpose_b=False)
        numbers.set_friendly_name(f"layer {layer}")
    return runtime.Model([build.softmax(numbers, 1)], [parameter], "layers")


def _saved(model: Any, path: Path) -> Path:  # noqa: ANN401
    runtime.save_model(model, path, compress_to_fp16=False)
    return path


def _full(folder: Path) -> Path:
    model = _layers()
    int8_network._unround(model, {f"rounding {layer}" for layer in range(3)})
    return _saved(model, folder / "full.xml")


def test_a_part_is_a_rounding_and_the_operations_behind_it(tmp_path: Path) -> None:
    parts = int8_network.parts(_saved(_layers(), tmp_path / "int8.xml"))
    assert [part.rounding for part in parts] == ["rounding 0", "rounding 1", "rounding 2"]
    assert [part.operations for part in parts] == [("layer 0",), ("layer 1",), ("layer 2",)]


@pytest.mark.slow
def test_what_spoils_the_answers_costs_most_though_another_part_spoils_them_too(tmp_path: Path) -> None:
    int8 = _saved(_layers(0, 2), tmp_path / "int8.xml")
    until = time.monotonic() + 60
    costs = {
        part.rounding: cost
        for cost, part in int8_network.rank(_full(tmp_path), int8, PIXELS, until=until, progress=print)
    }
    assert min(costs["rounding 0"], costs["rounding 2"]) > 10 * costs["rounding 1"] > 0


def test_no_part_is_tried_after_the_time_is_up(tmp_path: Path) -> None:
    int8 = _saved(_layers(), tmp_path / "int8.xml")
    lines: list[str] = []
    ranked = int8_network.rank(_full(tmp_path), int8, PIXELS, until=0.0, progress=lines.append)
    assert list(ranked) == []
    assert lines == ["0 of 3 parts tried alone; the time is up."]


@pytest.mark.parametrize("half", [0.5, 0.25])
@pytest.mark.parametrize("swapped", [False, True])
def test_keras_gelu_becomes_one_operation_with_the_same_outputs(*, half: float, swapped: bool) -> None:
    build = runtime.operations()
    parameter = build.parameter([-1, 6], np.float32, name="numbers")
    value = build.multiply(parameter, build.constant(np.float32(3)))
    scaled = build.multiply(build.negative(value), build.constant(np.float32(0.5**0.5)))
    difference = build.subtract(build.constant(np.float32(1)), build.erf(scaled))
    sides = [build.multiply(build.constant(np.float32(half)), value), difference]
    product = build.multiply(*(reversed(sides) if swapped else sides))
    graph = runtime.Model([build.add(product, build.constant(np.float32(1)))], [parameter], "gelu")
    numbers = np.linspace(-2, 2, 12, dtype=np.float32).reshape(2, 6)

    def outputs() -> NDArray[np.float32]:
        found: NDArray[np.float32] = next(iter(runtime.compile_for_cpu(graph, "fp32")([numbers]).values()))
        return found.copy()

    before = outputs()
    int8_network.join_gelus(graph)
    kinds = {node.get_type_name() for node in graph.get_ops()}
    assert ("Gelu" in kinds, "Erf" in kinds) == ((True, False) if half == 0.5 else (False, True))
    np.testing.assert_allclose(outputs(), before, atol=1e-5)


def _onnx(folder: Path) -> None:
    weights = np.random.default_rng(3).normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [
        onnx_file.node("Conv", ["picture", "weights"], "maps"),
        onnx_file.node("Relu", ["maps"], "positive"),
        onnx_file.node("GlobalAveragePool", ["positive"], "means"),
        onnx_file.node("Flatten", ["means"], "row"),
        onnx_file.node("MatMul", ["row", "last"], "logits"),
        onnx_file.node("Softmax", ["logits"], "class"),
    ]
    last = np.random.default_rng(4).normal(size=(8, 7)).astype(np.float32)
    constants = [onnx_file.constant("weights", weights), onnx_file.constant("last", last)]
    picture = onnx_file.value("picture", ("n", 3, 14, 18))
    content = onnx_file.model(nodes, [picture], [onnx_file.value("class", ("n", 7))], constants)
    (folder / "net.onnx").write_bytes(content)


@pytest.mark.slow
@pytest.mark.optional
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("converts_in_forks")
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("kind", ["keras", "saved_model", "frozen_graph", "tflite", "onnx"])
def test_every_source_is_quantised(exports: Path, tmp_path: Path, kind: str, *, narrow: bool) -> None:
    folder = tmp_path / kind
    shutil.copytree(exports, folder, ignore=shutil.ignore_patterns("*.npy"))
    source = SOURCES.get(kind, 'kind = "onnx"\nfile = "net.onnx"')
    _onnx(folder)
    (folder / "model.toml").write_text(TOML.format(source=source))
    (folder / "labels.txt").write_text("\n".join("abcdefg"))
    spec, store = read_model(tmp_path, kind), Store(tmp_path / "cache")
    pixels = np.random.default_rng(8).integers(0, 256, (60, 14, 18, 3), dtype=np.uint8)
    calibration, held_out = (FolderPictures(part, None) for part in (pixels[:20], pixels[20:]))
    limits = quantise.CostLimits(0.0, 0.8, 0.0, narrow=narrow)
    entry, report = quantise.quantise(spec, store, calibration, held_out, limits)
    assert report.agreement >= 0.8
    assert report.operations >= 2
    graph = runtime.core().read_model(entry.network)
    weights = [node.get_data() for node in graph.get_ops() if _is_int8(node)]
    # A depthwise convolution, of five axes, adds no two products in 16 bits.
    largest = max(np.abs(each.astype(int)).max() for each in weights if each.ndim < 5)
    assert largest <= 64 if narrow else largest > 120  # 2 * 255 * 64 fits into 16 bits
    if narrow or not runtime.saturates_int8():
        engine = OpenVINOEngine(spec, "int8", EngineOptions(4, tmp_path / "cache"))
        assert engine.predict(pixels[:3])[0].shape == (3, 7)


def _is_int8(node: Any) -> bool:  # noqa: ANN401 - an openvino.Node
    kind: str = node.get_output_element_type(0).get_type_name()
    return kind == "i8" and bool(node.get_type_name() == "Constant")
