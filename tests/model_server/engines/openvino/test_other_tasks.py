"""Networks of the other tasks, from ONNX, through the engine: what is served is what the file computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, importing, runtime
from model_server.engines.openvino.engine import OpenVINOEngine
from model_server.tasks.task import ReadOptions
from tests.model_server.engines import onnx_file

SIDE, NUMBERS = 12, 3 * 12 * 12
CHANCE = np.random.default_rng(3)
VECTORS = CHANCE.normal(0, 0.1, (NUMBERS, 20)).astype(np.float32)
AGES = CHANCE.normal(0, 0.3, (NUMBERS, 2)).astype(np.float32)
PICTURES = CHANCE.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
ROWS = PICTURES.transpose(0, 3, 1, 2).reshape(5, NUMBERS).astype(np.float32) / 255

TOML = """task = "TASK"
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 12
height = 12
channels = 3
fit = "stretch"
normalise = "unit"
"""


def _onnx() -> bytes:
    """Three outputs: a vector, two quantities, and the picture's negative."""
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "vectors"], "vector"),
        onnx_file.node("MatMul", ["row", "ages"], "quantities"),
        onnx_file.node("Sub", ["one", "picture"], "negative"),
    ]
    constants = [
        onnx_file.constant("flat", np.array((-1, NUMBERS), np.int64)),
        onnx_file.constant("vectors", VECTORS),
        onnx_file.constant("ages", AGES),
        onnx_file.constant("one", np.array((1,), np.float32)),
    ]
    outputs = [
        onnx_file.value("vector", ("n", 20)),
        onnx_file.value("quantities", ("n", 2)),
        onnx_file.value("negative", ("n", 3, SIDE, SIDE)),
    ]
    picture = onnx_file.value("picture", ("n", 3, SIDE, SIDE))
    return onnx_file.model(nodes, [picture], outputs, constants)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model's folder without a model.toml; what a child process would do is done in this one."""

    def in_this_process(spec: ModelSpec, width: str, into: Path) -> None:
        importing.write(spec, into, half=width == "half", in_int8=width == "int8")

    monkeypatch.setattr(conversion, "_run_child", in_this_process)
    model = tmp_path / "net"
    model.mkdir()
    (model / "net.onnx").write_bytes(_onnx())
    (model / "labels.txt").write_text("age\nheight\n")
    return model


def _engine(folder: Path, toml: str, precision: str = "fp32") -> tuple[ModelSpec, OpenVINOEngine]:
    (folder / "model.toml").write_text(toml)
    spec = read_model(folder.parent, folder.name)
    return spec, OpenVINOEngine(spec, precision, EngineOptions(4, folder.parent / "cache"))


def _toml(task: str, more: str = "") -> str:
    labels = 'labels = "labels.txt"\n' if task in ("regression", "multi_label") else ""
    return labels + TOML.replace("TASK", task) + more


RIGHT: dict[str, NDArray[np.floating[Any]]] = {
    "embedding": ROWS @ VECTORS,
    "regression": ROWS @ AGES,
    "image": 1 - PICTURES.transpose(0, 3, 1, 2).astype(np.float32) / 255,
}


@pytest.mark.slow
@pytest.mark.parametrize("task", RIGHT)
def test_the_output_that_fits_the_task_is_served(folder: Path, task: str) -> None:
    _, engine = _engine(folder, _toml(task))
    (output,) = engine.predict(PICTURES)
    np.testing.assert_allclose(output, RIGHT[task], atol=1e-4)
    assert engine.outputs.available == ("vector (20,)", "quantities (2,)", "negative (3, 12, 12)")


@pytest.mark.slow
def test_raw_outputs_have_the_names_of_their_file(folder: Path) -> None:
    spec, engine = _engine(folder, _toml("raw"))
    outputs = engine.predict(PICTURES[:1])
    options = ReadOptions((SIDE, SIDE), 1, engine.outputs.served)
    answer = spec.task.read(tuple(output[0] for output in outputs), spec, options).outputs
    assert answer is not None
    assert {name: each.shape for name, each in answer.items()} == {
        "vector": (20,),
        "quantities": (2,),
        "negative": (3, SIDE, SIDE),
    }
    np.testing.assert_allclose(answer["quantities"].data, RIGHT["regression"][0], atol=1e-4)


@pytest.mark.slow
def test_one_output_is_named(folder: Path) -> None:
    _, engine = _engine(folder, _toml("raw", '[output]\nname = "quantities"\n'))
    assert engine.outputs.served == ("quantities",)
    (output,) = engine.predict(PICTURES)
    np.testing.assert_allclose(output, RIGHT["regression"], atol=1e-4)


@pytest.mark.slow
def test_each_label_s_probability_is_its_own(folder: Path) -> None:
    _, engine = _engine(folder, _toml("multi_label", '[output]\nactivation = "sigmoid"\n'))
    (output,) = engine.predict(PICTURES)
    np.testing.assert_allclose(output, 1 / (1 + np.exp(-RIGHT["regression"])), atol=1e-5)


@pytest.mark.slow
def test_16_bits_are_near_enough(folder: Path) -> None:
    precision = "fp32" if runtime.lacks("bf16") else "bf16"
    for task, right in RIGHT.items():
        _, engine = _engine(folder, _toml(task), precision)
        (output,) = engine.predict(PICTURES)
        assert np.sqrt(np.mean((output - right) ** 2)) < 0.03 * np.sqrt(np.mean(right**2))


@pytest.mark.slow
def test_another_network_s_numbers_are_refused(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"no output 'x'\. Available: 0: vector"):
        _engine(folder, _toml("embedding", '[output]\nname = "x"\n'))
    with pytest.raises(ModelUnavailable, match="an embedding is a vector"):
        _engine(folder, _toml("embedding", '[output]\nname = "negative"\n'))
    (folder / "labels.txt").write_text("a\nb\nc\n")
    with pytest.raises(ModelUnavailable, match=r"is \(20,\) and \(2,\) and \(3, 12, 12\), but there are 3"):
        _engine(folder, _toml("regression"))
