"""Which engine and precision `auto` means, on a made-up machine, and what is said of a missing package."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_toml import Onnx
from model_server.engines import choice, loading
from model_server.engines.choice import EngineChoice, choose
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import runtime
from model_server.tasks import TASKS
from tests.model_server.engines import tiny


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A CPU that is faster in bf16, OpenVINO installed, no GPU."""
    monkeypatch.setattr(choice, "has_gpu", lambda _: False)
    monkeypatch.setattr(choice, "_is_installed", lambda _: True)
    monkeypatch.setattr(runtime, "capabilities", lambda: frozenset({"FP32", "BF16", "INT8"}))
    monkeypatch.setattr(runtime, "gains_from_bf16", lambda: True)
    return monkeypatch


@pytest.mark.parametrize(
    ("engine", "precision", "backend", "chosen"),
    [
        ("auto", "auto", "tensorflow", EngineChoice("openvino", "bf16")),
        ("auto", "fp32", "jax", EngineChoice("openvino", "fp32")),
        ("auto", "int8", "tensorflow", EngineChoice("openvino", "int8")),
        ("tensorflow", "auto", "jax", EngineChoice("tensorflow", "fp32")),
        ("jax", "bf16", "tensorflow", EngineChoice("jax", "bf16")),
    ],
)
def test_on_a_cpu(
    machine: pytest.MonkeyPatch,  # noqa: ARG001 - sets the scene
    engine: str,
    precision: str,
    backend: str,
    chosen: EngineChoice,
) -> None:
    assert choose(engine, precision, keras_backend=backend) == chosen


def test_a_cpu_that_is_slower_in_bf16_computes_in_fp32(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(runtime, "gains_from_bf16", lambda: False)
    assert choose("auto", "auto", keras_backend="tensorflow") == EngineChoice("openvino", "fp32")
    assert choose("openvino", "bf16", keras_backend="tensorflow") == EngineChoice("openvino", "bf16")
    assert not runtime.lacks("bf16")


def test_a_cpu_without_bf16_lacks_it(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(runtime, "capabilities", lambda: frozenset({"FP32", "INT8"}))
    assert "does not compute in bf16 (it has FP32, INT8)" in runtime.lacks("bf16")
    assert runtime.lacks("int8") == runtime.lacks("fp32") == ""


@pytest.mark.parametrize(("saturates", "precision"), [(True, "fp32"), (False, "int8")])
def test_a_quantised_file_runs_in_int8_where_its_sums_fit(
    machine: pytest.MonkeyPatch, tmp_path: Path, *, saturates: bool, precision: str
) -> None:
    machine.setattr(runtime, "saturates_int8", lambda: saturates)
    (tmp_path / "net.onnx").write_bytes(b"QuantizeLinear")
    spec = replace(tiny.spec(tmp_path), source=Onnx("net.onnx"))
    chosen = choice.choose_for(spec, "auto", "auto", keras_backend="tensorflow")
    assert chosen == EngineChoice("openvino", precision)
    by_name = choice.choose_for(spec, "auto", "int8", keras_backend="tensorflow")
    assert by_name == EngineChoice("openvino", "int8")


@pytest.mark.parametrize("task", TASKS)
def test_numbers_that_are_the_answer_are_computed_in_fp32(
    machine: pytest.MonkeyPatch,  # noqa: ARG001 - sets the scene
    tmp_path: Path,
    task: str,
) -> None:
    spec = replace(tiny.spec(tmp_path), task=TASKS[task])
    chosen = choice.choose_for(spec, "auto", "auto", keras_backend="tensorflow")
    assert chosen.precision == ("fp32" if spec.task.is_exact else "bf16")
    by_name = choice.choose_for(spec, "auto", "bf16", keras_backend="tensorflow")
    assert by_name.precision == "bf16"


def test_without_openvino_keras_own_backend_runs(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "_is_installed", lambda _: False)
    assert choose("auto", "auto", keras_backend="jax") == EngineChoice("jax", "fp32")
    assert choose("openvino", "auto", keras_backend="jax") == EngineChoice("openvino", "fp32")


def test_on_a_gpu_keras_own_backend_runs_in_mixed_precision(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(choice, "has_gpu", lambda _: True)
    assert choose("auto", "auto", keras_backend="tensorflow") == EngineChoice("tensorflow", "fp16")
    assert choose("auto", "auto", keras_backend="jax") == EngineChoice("jax", "fp16")
    assert choose("openvino", "auto", keras_backend="jax") == EngineChoice("openvino", "bf16")


def test_a_gpu_needs_a_device_and_a_build_that_uses_it(tmp_path: Path) -> None:
    assert not choice.has_gpu("tensorflow", tmp_path)
    assert choice.can_use_gpu("tensorflow", ["keras", "tensorflow"])
    assert not choice.can_use_gpu("tensorflow", ["tensorflow_cpu"])
    assert not choice.can_use_gpu("tensorflow", ["tensorflow", "tensorflow-cpu"])
    assert choice.can_use_gpu("jax", ["jax", "jax_cuda12_plugin"])
    assert not choice.can_use_gpu("jax", ["jax", "jaxlib", "tensorflow"])
    (tmp_path / "nvidiactl").touch()
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patched:
        patched.setattr(choice, "can_use_gpu", lambda *_: True)
        assert not choice.has_gpu("tensorflow", tmp_path)
        (tmp_path / "nvidia0").touch()
        assert choice.has_gpu("tensorflow", tmp_path)


def test_the_command_that_installs_jax_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # the module names another before it misses JAX
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "model_server.engines.keras.jax", raising=False)
    with pytest.raises(ModelUnavailable, match="needs the Python package 'jax'") as refused:
        loading.load(tiny.spec(tmp_path / "tiny"), EngineChoice("jax", "fp32"), EngineOptions(4, tmp_path))
    assert refused.value.message.endswith("Install it: .venv/bin/python -m pip install jax")
