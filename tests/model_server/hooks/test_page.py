"""The examples of docs/hooks.md run as they are written there."""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from broker.messages import TaskResult
from model_server.catalogue.hooks_file import HookLimits
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines import loading
from model_server.engines.choice import choose_for
from model_server.engines.engine import EngineOptions
from model_server.engines.hooked import HookedEngine
from model_server.engines.openvino import conversion, importing
from model_server.tasks.task import ReadOptions
from tests.model_server.engines import onnx_file
from tests.support import ROOT

PAGE = (ROOT / "docs" / "hooks.md").read_text("utf-8")
EXAMPLES = dict(
    zip(
        ("load", "preprocess", "postprocess"),
        re.findall(r"^```toml\n(.*?)^```\n.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL),
        strict=True,
    )
)


def _run(folder: Path, example: str, labels: list[str], picture: NDArray[np.uint8]) -> TaskResult:
    folder.mkdir(exist_ok=True)
    toml, code = EXAMPLES[example]
    (folder / "model.toml").write_text(toml)
    (folder / "hooks.py").write_text(code)
    (folder / "labels.txt").write_text("\n".join(labels))
    spec = read_model(folder.parent, folder.name)
    choice = choose_for(spec, "auto", "fp32", keras_backend="tensorflow")
    engine = loading.load(spec, choice, EngineOptions(2, folder.parent / "cache"))
    assert isinstance(engine, HookedEngine)
    try:
        outputs = tuple(output[0] for output in engine.predict(engine.prepare(picture)[None]))
        return engine.read(outputs, spec, ReadOptions((640, 480), 3, engine.outputs.served))
    finally:
        engine.close()


@pytest.mark.slow
def test_the_network_of_load_names_the_nearest_colour(tmp_path: Path) -> None:
    green = np.full((64, 64, 3), (20, 230, 10), np.uint8)
    answer = _run(tmp_path / "colours", "load", ["red", "green", "blue"], green)
    assert answer.predictions[0].label == "green"
    assert answer.predictions[0].probability > 0.9


@pytest.mark.slow
def test_the_network_gets_the_logarithm_that_preprocess_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_this_process(spec: ModelSpec, _width: str, into: Path) -> None:
        prepared = conversion._prepared(into / "prepared.npy")
        importing.write(spec, into, half=False, prepared=prepared)

    weights = np.random.default_rng(2).normal(0, 0.02, (64 * 64, 2)).astype(np.float32)
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "logits"),
    ]
    constants: list[Any] = [
        onnx_file.constant("flat", np.array((-1, 64 * 64), np.int64)),
        onnx_file.constant("weights", weights),
    ]
    taken = onnx_file.value("picture", ("n", 1, 64, 64))
    network = onnx_file.model(nodes, [taken], [onnx_file.value("logits", ("n", 2))], constants)
    picture = np.random.default_rng(4).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    monkeypatch.setattr(conversion, "_run_child", in_this_process)
    (tmp_path / "logarithms").mkdir()
    (tmp_path / "logarithms" / "net.onnx").write_bytes(network)
    answer = _run(tmp_path / "logarithms", "preprocess", ["a", "b"], picture)
    logits = np.log1p(picture @ np.array([0.299, 0.587, 0.114])).reshape(-1) @ weights
    right = 1 / (1 + np.exp(logits.min() - logits.max()))
    assert answer.predictions[0].label == "ab"[int(logits.argmax())]
    assert answer.predictions[0].probability == pytest.approx(right, rel=1e-3)


@pytest.mark.slow
def test_postprocess_answers_with_a_prediction_and_a_verdict(tmp_path: Path) -> None:
    bright = np.full((64, 64, 3), 250, np.uint8)
    answer = _run(tmp_path / "lights", "postprocess", ["dark", "light"], bright)
    (prediction,) = answer.predictions
    assert (prediction.label, prediction.class_id) == ("light", "1")
    assert prediction.probability == pytest.approx(250 / 255)
    assert answer.result == {"is_certain": True}


def test_the_table_of_limits_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) to (\d+) \|", PAGE, re.MULTILINE)
    assert [name for name, *_ in rows] == list(HookLimits.__struct_fields__)
    for name, default, low, high in rows:
        assert getattr(HookLimits(), name) == float(default)
        for bound in (low, high):
            toml = f"{name} = {bound}"
            assert _limits(toml)
        for beyond in (float(low) * 0.9, float(high) * 1.1):
            with pytest.raises(ValueError, match="Expected"):
                _limits(f"{name} = {round(beyond) if name == 'memory_mb' else beyond}")


def _limits(toml: str) -> HookLimits:
    return msgspec.toml.decode(toml, type=HookLimits)
