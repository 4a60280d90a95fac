"""What a file with an input of real numbers says of them, against model.toml."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines.openvino import declared_input, file_metadata, imported_graph, quantised
from tests.model_server.engines import onnx_file

SHAPE = (1, 3, 4, 5)
TOML = """task = "{task}"
labels = "labels.txt"
top = 1
[source]
kind = "{kind}"
file = "net"
[input]
width = 5
height = 4
channels = 3
fit = "stretch"
normalise = {normalise}
"""
TABLE = "{ mean = [0, 0, 0], std = [1, 1, 1] }"


def _spec(
    folder: Path,
    content: bytes,
    normalise: str,
    labels: str = "cat\ndog\n",
    task: str = "classification",
    kind: str = "onnx",
) -> ModelSpec:
    folder = folder / "net"
    folder.mkdir(exist_ok=True)
    (folder / "net").write_bytes(content)
    (folder / "labels.txt").write_text(labels)
    (folder / "model.toml").write_text(TOML.format(normalise=normalise, task=task, kind=kind))
    return read_model(folder.parent, folder.name)


def _onnx(*, calibrated: tuple[float, int] | None = None, metadata: dict[str, str] | None = None) -> bytes:
    """An input that is rounded to bytes at once, if `calibrated` has a step and a zero, and the metadata."""
    nodes, constants, last = [], [], "picture"
    if calibrated is not None:
        nodes = [
            onnx_file.node("QuantizeLinear", ["picture", "step", "zero"], "bytes"),
            onnx_file.node("DequantizeLinear", ["bytes", "step", "zero"], "numbers"),
        ]
        step, zero = calibrated
        constants = [
            onnx_file.constant("step", np.array(step, np.float32)),
            onnx_file.constant("zero", np.array(zero, np.uint8)),
        ]
        last = "numbers"
    nodes.append(onnx_file.node("GlobalAveragePool", [last], "pooled"))
    shapes = onnx_file.value("picture", SHAPE), onnx_file.value("pooled", (1, 3, 1, 1))
    return onnx_file.model(nodes, [shapes[0]], [shapes[1]], constants) + onnx_file.metadata(metadata or {})


def _doubt(spec: ModelSpec) -> str:
    return imported_graph.read(spec).doubt


TF = (2 / 255, 128)


@pytest.mark.parametrize(
    ("calibrated", "normalise"),
    [(TF, '"tf"'), ((1 / 255, 0), '"unit"'), ((1.0, 0), '"none"'), (None, '"none"')],
)
def test_the_normalisation_of_its_calibration_is_right(
    tmp_path: Path, calibrated: tuple[float, int] | None, normalise: str
) -> None:
    assert _doubt(_spec(tmp_path, _onnx(calibrated=calibrated), normalise)) == ""


@pytest.mark.parametrize(
    ("calibrated", "normalise"),
    [(TF, '"none"'), (TF, '"caffe"'), ((1 / 255, 0), '"tf"'), ((1.0, 0), '"unit"')],
)
def test_another_than_that_of_its_calibration_is_refused(
    tmp_path: Path, calibrated: tuple[float, int], normalise: str
) -> None:
    with pytest.raises(ModelUnavailable, match=r"takes numbers from .* but normalise in model.toml gives"):
        _doubt(_spec(tmp_path, _onnx(calibrated=calibrated), normalise))


def test_a_calibration_with_dim_pictures_is_only_warned_of(tmp_path: Path) -> None:
    found = _doubt(_spec(tmp_path, _onnx(calibrated=(0.5 / 255, 0)), '"unit"'))
    assert "takes numbers from 0 to 0.5, and normalise in model.toml gives 0 to 1" in found


ULTRALYTICS = {"author": "Ultralytics", "stride": "32", "task": "classify", "names": "{0: 'cat', 1: 'dog'}"}


def test_a_file_of_ultralytics_is_right_with_unit(tmp_path: Path) -> None:
    assert _doubt(_spec(tmp_path, _onnx(metadata=ULTRALYTICS), '"unit"', "Katze\nHund\n")) == ""
    assert _doubt(_spec(tmp_path, _onnx(metadata={"names": "{0: 'cat'}"}), '"none"')) == ""


@pytest.mark.parametrize(
    ("changes", "how", "words"),
    [
        ({}, {"normalise": '"none"'}, 'its networks take 0 to 1 in RGB. Write normalise = "unit"'),
        ({}, {"normalise": '"torch"'}, 'its networks take 0 to 1 in RGB. Write normalise = "unit"'),
        ({}, {"labels": "a\nb\nc\n"}, "name 2 classes, from 'cat' to 'dog', but there are 3 labels"),
        ({"task": "detect"}, {}, 'its task is "detect". Write task = "detection"'),
    ],
)
def test_what_contradicts_a_file_of_ultralytics_is_refused(
    tmp_path: Path, changes: dict[str, str], how: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        _doubt(_spec(tmp_path, _onnx(metadata=ULTRALYTICS | changes), **({"normalise": '"unit"'} | how)))


def test_what_may_be_meant_so_is_only_warned_of(tmp_path: Path) -> None:
    other_order = _doubt(_spec(tmp_path, _onnx(metadata=ULTRALYTICS), '"unit"', "dog\ncat\n"))
    assert "has the classes of the file's metadata in another order" in other_order
    table = _doubt(_spec(tmp_path, _onnx(metadata=ULTRALYTICS), TABLE))
    assert "normalise in model.toml gives other numbers" in table
    for names in ("no dictionary", "{'a': 1}", "["):
        assert _doubt(_spec(tmp_path, _onnx(metadata=ULTRALYTICS | {"names": names}), '"unit"')) == ""


@pytest.mark.parametrize(
    ("declared", "normalise", "is_right"),
    [
        (((127.5,), (127.5,)), '"tf"', True),
        (((127.0,), (128.0,)), '"tf"', True),
        (((0.0,), (255.0,)), '"unit"', True),
        (((0.0,), (1.0,)), '"none"', True),
        (((127.5,), (127.5,)), '"unit"', False),
        (((0.0,), (255.0,)), '"none"', False),
        (((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)), '"torch"', True),
        (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), '"torch"', True),  # meant for 0 to 1
        (None, '"unit"', True),
    ],
)
def test_the_metadata_of_a_tflite_file_are_held_against_it(
    tmp_path: Path, declared: file_metadata.Normalising | None, normalise: str, *, is_right: bool
) -> None:
    found = declared_input._normalising(_spec(tmp_path, b"", normalise, kind="tflite"), declared)
    assert (found == "") is is_right
    if not is_right:
        assert "metadata say normalise = { mean = [" in found


@pytest.mark.parametrize(
    ("normalise", "words"),
    [
        ('"unit"', "changed by up to 25 of 255"),
        ("{ mean = [0, 1, 2], std = [283, 283, 283] }", ""),  # bytes as they are can't be what is meant
    ],
)
def test_bytes_that_reach_the_network_changed_cause_a_warning(
    tmp_path: Path, normalise: str, words: str
) -> None:
    taken = quantised.Quantisation(step=0.9 / 255, zero=0, low=0, high=255)
    doubt = declared_input.of_bytes(_spec(tmp_path, _onnx(), normalise), taken)
    assert words in doubt
    assert bool(words) is bool(doubt)
