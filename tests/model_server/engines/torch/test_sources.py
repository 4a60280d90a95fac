"""Networks of PyTorch where PyTorch is not installed; where it is: tests/importers/test_torch.py."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.catalogue.model_toml import TorchNetwork
from model_server.engines import loading
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion
from model_server.engines.torch import sources
from tests.support import ROOT

KINDS = {
    "torchscript": 'file = "net.pt"',
    "torch_export": 'file = "net.pt"',
    "torch_network": 'library = "timm"\nname = "resnet18"\nweights = "net.pt"',
}


@pytest.fixture(autouse=True)
def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "torchvision", "timm", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "model_server.engines.torch.network", raising=False)


def write(tmp_path: Path, kind: str, content: bytes = b"a network") -> ModelSpec:
    folder = tmp_path / "net"
    folder.mkdir(exist_ok=True)
    (folder / "net.pt").write_bytes(content)
    (folder / "labels.txt").write_text("one\ntwo\n")
    (folder / "model.toml").write_text(
        f'task = "classification"\nlabels = "labels.txt"\ntop = 1\n[source]\nkind = "{kind}"\n{KINDS[kind]}\n'
        '[input]\nwidth = 8\nheight = 8\nchannels = 3\nfit = "stretch"\nnormalise = "torch"\n'
    )
    return read_model(tmp_path, "net")


def test_the_command_that_installs_pytorch_is_named(tmp_path: Path) -> None:
    for kind in KINDS:
        with pytest.raises(
            ModelUnavailable, match=r"needs the Python package 'torch'.*pip install -r"
        ) as refused:
            loading.load(write(tmp_path, kind), EngineChoice("torch", "fp32"), EngineOptions(4, tmp_path))
        assert refused.value.message.endswith(f": {sources.INSTALL}")
    *_, requirements = sources.INSTALL.split()
    assert (ROOT / requirements).is_file()


def test_the_conversion_names_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "torchscript")
    assert conversion.main([str(tmp_path), "net", "", "full", str(tmp_path)]) == conversion._UNAVAILABLE
    assert sources.INSTALL in capsys.readouterr().out


def test_a_missing_or_another_file_is_refused_before_pytorch_is_missed(tmp_path: Path) -> None:
    spec = write(tmp_path, "torchscript", b"\x1c\0\0\0TFL3")
    with pytest.raises(
        ModelUnavailable, match=r"net.pt is not a TorchScript file. It looks like a TensorFlow Lite"
    ):
        loading.load(spec, EngineChoice("torch", "fp32"), EngineOptions(4, tmp_path))
    (spec.folder / "net.pt").unlink()
    with pytest.raises(ModelUnavailable, match=r"its folder has no file 'net.pt'"):
        loading.load(spec, EngineChoice("torch", "fp32"), EngineOptions(4, tmp_path))
    (spec.folder / "net.pt").mkdir()
    with pytest.raises(ModelUnavailable, match=r"'net.pt' is a folder"):
        sources.find(spec)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize(
    "error", ["RuntimeError('operator torchvision::nms does not exist')", "AttributeError"]
)
def test_a_torchvision_of_another_build_is_refused_with_a_command_that_replaces_it(
    library: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-r requirements-torch.txt` replaces nothing: pip takes 2.13.0+cpu and 2.13.0 for one version."""
    (tmp_path / "torchvision.py").write_text(f"raise {error}\n")
    (tmp_path / "timm.py").write_text("import torchvision\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torchvision", "timm"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.metadata.version", {"torch": "2.13.0+cpu", "torchvision": "0.28.0"}.get)
    spec = write(tmp_path, "torch_network")
    source = TorchNetwork(library=library, name="resnet18", weights="net.pt")  # type: ignore[arg-type]
    builds: list[Callable[[], object]] = [lambda: sources._of_torchvision(spec, source, {})]
    if library == "timm":
        builds = [lambda: sources._of_timm(spec, source, ()), lambda: sources._published(spec, source)]
    for build in builds:
        with pytest.raises(
            ModelUnavailable, match=r"torchvision 0.28.0 does not fit PyTorch 2.13.0\+cpu"
        ) as no:
            build()
        assert no.value.message.endswith(f": {sources.FROM_ONE_PLACE}")
        assert "--force-reinstall" in no.value.message


@pytest.mark.parametrize(
    ("engine", "precision", "choice"),
    [
        ("auto", "fp32", EngineChoice("openvino", "fp32", fallback="torch")),
        ("auto", "bf16", EngineChoice("openvino", "bf16")),
        ("openvino", "fp32", EngineChoice("openvino", "fp32")),
        ("torch", "auto", EngineChoice("torch", "fp32")),
    ],
)
def test_pytorch_is_the_fallback_of_a_precision_that_it_has(
    tmp_path: Path, engine: str, precision: str, choice: EngineChoice
) -> None:
    spec = write(tmp_path, "torch_export")
    assert choose_for(spec, engine, precision, keras_backend="tensorflow") == choice


def test_without_openvino_pytorch_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.engines.choice._is_installed", lambda _: False)
    spec = write(tmp_path, "torch_export")
    assert choose_for(spec, "auto", "auto", keras_backend="tensorflow") == EngineChoice("torch", "fp32")


def test_engines_of_other_libraries_are_refused(tmp_path: Path) -> None:
    options = EngineOptions(4, tmp_path)
    with pytest.raises(ModelUnavailable, match=r"ENGINE=jax runs only Keras networks.*OpenVINO or PyTorch"):
        loading.load(write(tmp_path, "torchscript"), EngineChoice("jax", "fp32"), options)
    with pytest.raises(ModelUnavailable, match="ENGINE=torch runs only networks of PyTorch"):
        loading.load(read_model(ROOT / "models", "digits"), EngineChoice("torch", "fp32"), options)


def test_the_pins_are_those_of_the_tests() -> None:
    pins = {
        name: {
            line
            for line in (ROOT / name / file).read_text("utf-8").splitlines()
            if line.split("==")[0] in ("safetensors", "timm", "torch", "torchvision")
        }
        for name, file in (
            ("model_server", "requirements-torch.txt"),
            ("tests/importers", "requirements.txt"),
        )
    }
    assert pins["model_server"] == pins["tests/importers"]
    assert len(pins["model_server"]) == 4
    again = {word for word in sources.FROM_ONE_PLACE.split() if "==" in word}
    assert again == {pin for pin in pins["model_server"] if pin.startswith("torch")}
