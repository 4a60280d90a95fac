"""ENGINE=onnxruntime without its package; with it: tests/importers/test_onnxruntime.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines import loading
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import EngineOptions
from model_server.engines.onnxruntime import providers, source
from tests.model_server.engines.openvino.test_importing import write
from tests.model_server.engines.torch import test_sources as of_torch
from tests.support import ROOT

CHOICE = EngineChoice("onnxruntime", "fp32")


@pytest.fixture(autouse=True)
def without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("runtime", "network", "engine"):
        monkeypatch.delitem(sys.modules, f"model_server.engines.onnxruntime.{name}", raising=False)


def test_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    spec = write(tmp_path / "net")
    with pytest.raises(ModelUnavailable, match="needs the Python package 'onnxruntime'") as refused:
        loading.load(spec, CHOICE, EngineOptions(4, tmp_path))
    assert refused.value.message.endswith(f": {source.INSTALL}")
    *_, requirements = source.INSTALL.split()
    assert (ROOT / requirements).is_file()


def test_a_missing_or_another_file_is_refused_before_the_package_is_missed(tmp_path: Path) -> None:
    options = EngineOptions(4, tmp_path)
    spec = write(tmp_path / "net", b"\x1c\0\0\0TFL3")
    with pytest.raises(ModelUnavailable, match=r"net.onnx is not an ONNX file. It looks like a TensorFlow L"):
        loading.load(spec, CHOICE, options)
    (spec.folder / "net.onnx").unlink()
    with pytest.raises(ModelUnavailable, match=r"its folder has no file 'net.onnx'"):
        loading.load(spec, CHOICE, options)
    (spec.folder / "net.onnx").mkdir()
    with pytest.raises(ModelUnavailable, match=r"'net.onnx' is a folder"):
        loading.load(spec, CHOICE, options)


def test_it_runs_onnx_files_alone(tmp_path: Path) -> None:
    options = EngineOptions(4, tmp_path)
    for spec in (read_model(ROOT / "models", "digits"), of_torch.write(tmp_path, "torchscript")):
        with pytest.raises(ModelUnavailable, match="ENGINE=onnxruntime runs only ONNX files"):
            loading.load(spec, CHOICE, options)
    with pytest.raises(ModelUnavailable, match=r"ENGINE=jax runs only Keras.*OpenVINO or ONNX Runtime"):
        loading.load(write(tmp_path / "onnx"), EngineChoice("jax", "fp32"), options)


def test_int8_is_openvino_s(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="PRECISION=int8 needs ENGINE=openvino, not onnxruntime"):
        loading.load(write(tmp_path / "net"), EngineChoice("onnxruntime", "int8"), EngineOptions(4, tmp_path))


def test_auto_means_fp32_even_for_a_quantised_file(tmp_path: Path) -> None:
    spec = write(tmp_path / "net", b"QuantizeLinear")
    assert choose_for(spec, "onnxruntime", "auto", keras_backend="tensorflow") == CHOICE


def test_the_pins_are_those_of_the_tests() -> None:
    pins = {
        line
        for file in ("model_server/requirements-onnxruntime.txt", "tests/importers/requirements.txt")
        for line in (ROOT / file).read_text("utf-8").splitlines()
        if line.startswith("onnxruntime==")
    }
    (pin,) = pins
    version = pin.removeprefix("onnxruntime==")
    gpu = f"onnxruntime-gpu[cuda,cudnn]=={version}"
    assert gpu in providers.INSTALL_FOR_GPU
    assert gpu in (ROOT / "model_server" / "requirements-onnxruntime.txt").read_text("utf-8")


@pytest.mark.slow
def test_reading_what_a_file_declares_loads_no_openvino() -> None:
    code = "import sys, model_server.engines.openvino.declared_input; print('openvino' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
