"""A detector in ONNX: its outputs are taken by name or place, and told as boxes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, importing
from model_server.engines.openvino.engine import OpenVINOEngine
from model_server.tasks.task import ReadOptions
from tests.model_server.engines import onnx_file

SIDE, MANY, BOXES, CLASSES = 4, 48, 5, 3
CHANCE = np.random.default_rng(8)
PLACES = CHANCE.normal(0, 0.2, (MANY, BOXES * 4)).astype(np.float32)
SCORES = CHANCE.normal(0, 0.5, (MANY, BOXES * CLASSES)).astype(np.float32)
PICTURES = np.random.default_rng(9).integers(0, 256, (11, SIDE, SIDE, 3), dtype=np.uint8)

TOML = """task = "detection"
labels = "labels.txt"
top = 9
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 4
height = 4
channels = 3
fit = "stretch"
normalise = "unit"
[detection]
confidence = 0.5
nms_iou = 1.0
format = "cxcywh"
"""


def _separate() -> bytes:
    """Scores come first and boxes second, and something that nobody asked for stands between."""
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "score_weights"], "score_numbers"),
        onnx_file.node("Sigmoid", ["score_numbers"], "score_row"),
        onnx_file.node("Reshape", ["score_row", "to_scores"], "scores"),
        onnx_file.node("MatMul", ["row", "place_weights"], "place_numbers"),
        onnx_file.node("Sigmoid", ["place_numbers"], "place_row"),
        onnx_file.node("Reshape", ["place_row", "to_boxes"], "boxes"),
    ]
    outputs = [
        onnx_file.value("scores", ("n", BOXES, CLASSES)),
        onnx_file.value("row", ("n", MANY)),
        onnx_file.value("boxes", ("n", BOXES, 4)),
    ]
    return _model(nodes, outputs)


def _ultralytics() -> bytes:
    """One output of (4 + classes, boxes)."""
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "all_weights"], "numbers"),
        onnx_file.node("Sigmoid", ["numbers"], "shares"),
        onnx_file.node("Reshape", ["shares", "to_all"], "output0"),
    ]
    return _model(nodes, [onnx_file.value("output0", ("n", 4 + CLASSES, BOXES))])


def _model(nodes: list[bytes], outputs: list[bytes]) -> bytes:
    constants = [
        onnx_file.constant("flat", np.array((-1, MANY), np.int64)),
        onnx_file.constant("to_scores", np.array((-1, BOXES, CLASSES), np.int64)),
        onnx_file.constant("to_boxes", np.array((-1, BOXES, 4), np.int64)),
        onnx_file.constant("to_all", np.array((-1, 4 + CLASSES, BOXES), np.int64)),
        onnx_file.constant("score_weights", SCORES),
        onnx_file.constant("place_weights", PLACES),
        onnx_file.constant("all_weights", np.concatenate([PLACES, SCORES], axis=1)),
    ]
    return onnx_file.model(nodes, [onnx_file.value("picture", ("n", 3, SIDE, SIDE))], outputs, constants)


def _engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, onnx: bytes, toml: str
) -> tuple[ModelSpec, OpenVINOEngine]:
    def in_this_process(spec: ModelSpec, width: str, into: Path) -> None:
        importing.write(spec, into, half=width == "half", in_int8=width == "int8")

    monkeypatch.setattr(conversion, "_run_child", in_this_process)
    model = folder / "net"
    model.mkdir()
    (model / "net.onnx").write_bytes(onnx)
    (model / "model.toml").write_text(toml)
    (model / "labels.txt").write_text("one\ntwo\nthree\n")
    spec = read_model(folder, "net")
    return spec, OpenVINOEngine(spec, "fp32", EngineOptions(32, folder / "cache"))


def _shares(weights: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = PICTURES.transpose(0, 3, 1, 2).reshape(len(PICTURES), MANY) / 255
    return np.asarray(1 / (1 + np.exp(-(rows @ weights.astype(np.float64)))))


@pytest.mark.slow
@pytest.mark.parametrize("named", ['boxes = "boxes"\nscores = "scores"\n', "boxes = 2\nscores = 0\n"])
def test_outputs_are_taken_by_name_or_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    spec, engine = _engine(tmp_path, monkeypatch, _separate(), TOML + named)
    boxes, scores = engine.predict(PICTURES)
    right_boxes, right_scores = (
        _shares(PLACES).reshape(-1, BOXES, 4),
        _shares(SCORES).reshape(-1, BOXES, CLASSES),
    )
    np.testing.assert_allclose(boxes, right_boxes, atol=1e-5)
    np.testing.assert_allclose(scores, right_scores, atol=1e-5)
    found = spec.task.read((boxes[0], scores[0]), spec, ReadOptions((1000, 1000), 9)).predictions
    best = right_scores[0].max(axis=1)
    assert len(found) == (best >= 0.5).sum() > 0
    assert found[0].probability == pytest.approx(best.max(), abs=1e-5)
    x, y, width, height = right_boxes[0, best.argmax()]
    left, top = max(0, x - width / 2), max(0, y - height / 2)
    assert found[0].box is not None
    assert found[0].box[:2] == pytest.approx((left * 1000, top * 1000), abs=0.6)


@pytest.mark.slow
def test_an_export_of_ultralytics_is_one_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = TOML.replace('format = "cxcywh"', 'layout = "ultralytics"')
    spec, engine = _engine(tmp_path, monkeypatch, _ultralytics(), toml)
    (output,) = engine.predict(PICTURES)
    weights = np.concatenate([PLACES, SCORES], axis=1)
    np.testing.assert_allclose(output, _shares(weights).reshape(-1, 4 + CLASSES, BOXES), atol=1e-5)
    found = spec.task.read((output[0],), spec, ReadOptions((400, 400), 9)).predictions
    assert len(found) == (output[0, 4:].max(axis=0) >= 0.5).sum() > 0


REFUSED = {
    'boxes = "where"\nscores = 0\n': r"no output .where.\. Available: 0: scores \(5, 3\); 1: .*; 2: boxes",
    "boxes = 2\nscores = 3\n": "no output 3",
    "boxes = 0\nscores = 2\n": r"are \(5, 3\), \(5, 4\), but 3 labels need \(n, 4\), \(n, 3\)",
    "boxes = 2\nscores = 0\nobjectness = 1\n": r"need \(n, 4\), \(n, 3\), \(n\)",
    'layout = "ultralytics"\nboxes = 2\n': r"need one of \(4 \+ 3, n\)",
}


@pytest.mark.slow
@pytest.mark.parametrize("named", REFUSED)
def test_outputs_that_can_not_be_detections_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    with pytest.raises(ModelUnavailable, match=REFUSED[named]):
        _engine(tmp_path, monkeypatch, _separate(), TOML + named)
