"""An ONNX file that computes in float16: judged by what float16 can hold, and still judged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines.check import agreement
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, imported_graph, importing
from model_server.engines.openvino.engine import OpenVINOEngine
from tests.model_server.engines import onnx_file

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, CLASSES = 24, 20, 5
MANY = HEIGHT * WIDTH * 3
WEIGHTS = np.random.default_rng(8).normal(0, 0.25, (MANY, CLASSES))
PICTURES = np.random.default_rng(9).integers(0, 256, (6, HEIGHT, WIDTH, 3), dtype=np.uint8)
TOML = f"""task = "classification"
labels = "labels.txt"
top = 2
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = {WIDTH}
height = {HEIGHT}
channels = 3
fit = "stretch"
normalise = "torch"
[output]
activation = "softmax"
"""


def _logits(batch: NDArray[np.uint8]) -> NDArray[Any]:
    """By NumPy, in float64."""
    numbers = (batch - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    return np.asarray(numbers.transpose(0, 3, 1, 2).reshape(len(batch), MANY) @ WEIGHTS)


def _content(kind: int) -> bytes:
    weights = WEIGHTS.astype(np.float16 if kind == onnx_file.FLOAT16 else np.float32)
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "logits"),
    ]
    return onnx_file.model(
        nodes,
        [onnx_file.value("picture", ("batch", 3, HEIGHT, WIDTH), kind)],
        [onnx_file.value("logits", ("batch", CLASSES), kind)],
        [onnx_file.constant("flat", np.array((-1, MANY), np.int64)), onnx_file.constant("weights", weights)],
    )


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    def convert(spec: ModelSpec, width: str, folder: Path) -> None:
        importing.write(spec, folder, half=width == "half")

    monkeypatch.setattr(conversion, "_run_child", convert)
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(_content(onnx_file.FLOAT16))
    (folder / "model.toml").write_text(TOML)
    (folder / "labels.txt").write_text("\n".join("abcde"))
    return read_model(tmp_path, "net")


def _load(spec: ModelSpec, tmp_path: Path) -> OpenVINOEngine:
    return OpenVINOEngine(spec, "fp32", EngineOptions(8, tmp_path / "cache"))


def test_it_is_served_with_the_tolerance_of_its_own_precision(spec: ModelSpec, tmp_path: Path) -> None:
    assert imported_graph.read(spec).own_precision == "fp16"
    engine = _load(spec, tmp_path)
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert str(np.load(entry / "reference.npz")["precision"]) == "fp16"
    found = np.log(engine.predict(PICTURES)[0])
    right = _logits(PICTURES)
    found, right = (each - each.mean(axis=1, keepdims=True) for each in (found, right))
    assert np.abs(found - right).max() < 0.01 * np.ptp(right, axis=1).max()


@pytest.mark.parametrize(
    ("change", "precision"), [("order", "fp16"), ("forgotten", "fp16"), ("rounding", "fp32")]
)
def test_a_real_fault_is_still_found(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, precision: str
) -> None:
    """And what float16 rounds is one for a network in fp32: the test can fail."""
    prepared = importing._prepared

    def spoilt(spec: ModelSpec, graph: Any, picture: NDArray[np.uint8]) -> NDArray[Any]:  # noqa: ANN401
        if change == "forgotten":
            return np.ascontiguousarray(picture.transpose(0, 3, 1, 2).astype(graph.dtype) / 255)
        numbers = prepared(spec, graph, picture[..., ::-1] if change == "order" else picture)
        return numbers * graph.dtype.type(1.02) if change == "rounding" else numbers

    if precision == "fp32":
        (spec.folder / "net.onnx").write_bytes(_content(onnx_file.FLOAT))
    monkeypatch.setattr(importing, "_prepared", spoilt)
    with pytest.raises(ModelUnavailable, match=f"at most {agreement.TOLERANCES[precision].log:g}"):
        _load(read_model(spec.folder.parent, "net"), tmp_path)
