"""Networks of PyTorch as they are: PyTorch's own answers, on OpenVINO and on the engine that is PyTorch.

Needs an environment with the product's packages and PyTorch's: test_importers.py makes one and runs this.
"""

import importlib.util
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.commands import new
from model_server.commands.terminal import DONE, IMPOSSIBLE
from model_server.engines import loading
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import Engine, EngineOptions
from model_server.engines.openvino import conversion, importing, runtime
from model_server.engines.torch import sources
from model_server.tasks.task import ReadOptions
from pictures import fixed_point
from tests.support import ROOT

pytestmark = [
    pytest.mark.importers,
    pytest.mark.filterwarnings("ignore"),  # PyTorch's own
    pytest.mark.skipif(
        not importlib.util.find_spec("torch"), reason="test_importers.py runs it with PyTorch"
    ),
]

if importlib.util.find_spec("torch"):
    import timm
    import torch
    import torchvision
    from safetensors.torch import save_file
    from torch import nn

    from model_server.engines.torch.network import PyTorchNetwork, for_translation

    Module: Any = nn.Module
else:
    Module = object

SIZE = 32
PICTURES = np.random.default_rng(3).integers(0, 256, (11, SIZE, SIZE, 3), dtype=np.uint8)
SMALL = np.random.default_rng(4).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
SCRIPT = 'kind = "torchscript"\nfile = "net.pt"\n'
EXPORT = 'kind = "torch_export"\nfile = "net.pt2"\n'
AUTO = EngineChoice("openvino", "fp32", fallback="torch")
TORCH = EngineChoice("torch", "fp32")

RUN_CHILD = conversion._run_child

Write = Callable[..., ModelSpec]


def convert_here(spec: ModelSpec, width: str, folder: Path) -> None:
    """What the child process does."""
    prepared = conversion._prepared(folder / "prepared.npy")
    importing.write(spec, folder, half=width == "half", prepared=prepared)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert here: a child process would import PyTorch each time."""
    monkeypatch.setattr(conversion, "_run_child", convert_here)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write model.toml and the labels into the model's folder."""

    def write(
        source: str, labels: int = 3, size: tuple[int, int] = (9, 8), last: str = "softmax", rest: str = ""
    ) -> ModelSpec:
        folder = tmp_path / "net"
        folder.mkdir(exist_ok=True)
        (folder / "labels.txt").write_text("".join(f"label {number}\n" for number in range(labels)))
        (folder / "model.toml").write_text(
            f'task = "{"detection" if rest else "classification"}"\nlabels = "labels.txt"\ntop = 1\n'
            f"[source]\n{source}[input]\nwidth = {size[0]}\nheight = {size[1]}\nchannels = 3\n"
            f'fit = "stretch"\nnormalise = "torch"\n[output]\nactivation = "{last}"\n{rest}'
        )
        return read_model(tmp_path, "net")

    return write


def load(spec: ModelSpec, choice: EngineChoice = AUTO) -> Engine:
    return loading.load(spec, choice, EngineOptions(8, spec.folder.parent / "cache"))


def prepared(pictures: NDArray[np.uint8]) -> Any:  # noqa: ANN401
    """As torchvision's tutorials prepare pictures."""
    numbers = torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).double() / 255
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return ((numbers - mean) / std).float()


def answers(network: Any, pictures: NDArray[np.uint8] = SMALL) -> NDArray[Any]:  # noqa: ANN401
    """What PyTorch gives."""
    with torch.no_grad():
        right: NDArray[Any] = network(prepared(pictures)).softmax(1).numpy()
    assert np.ptp(right, axis=0).max() > 0.01  # it tells the pictures apart
    return right


def save(network: Any, folder: Path, size: tuple[int, int] = (8, 9), *, batch: int | None = None) -> None:  # noqa: ANN401
    """As net.pt and net.pt2; `batch`: exported for so many pictures alone."""
    folder.mkdir(exist_ok=True)
    kind = next(network.parameters()).dtype
    example = torch.zeros(batch or 2, 3, *size, dtype=kind)
    torch.jit.trace(network, example, check_trace=False).save(folder / "net.pt")
    dynamic = None if batch else ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=dynamic), folder / "net.pt2")


class Small(Module):  # type: ignore[misc]
    """A convolution and a linear layer."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.convolution = nn.Conv2d(3, 4, 3, stride=2)
        self.linear = nn.Linear(4 * 3 * 4, classes)

    def forward(self, numbers: Any) -> Any:  # noqa: ANN401
        return self.linear(torch.relu(self.convolution(numbers)).flatten(1))


class Bessel(Small):
    """With an operation that OpenVINO's front end does not know."""

    def forward(self, numbers: Any) -> Any:  # noqa: ANN401
        return self.linear(torch.special.bessel_j0(self.convolution(numbers)).flatten(1)) * 5


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_all_three_kinds_give_what_pytorch_gives(library: str, write: Write, tmp_path: Path) -> None:
    torch.manual_seed(2)
    if library == "torchvision":
        network, name = torchvision.models.squeezenet1_1(num_classes=3).eval(), "squeezenet1_1"
        head, before = network.classifier[1], network.features
    else:
        network, name = timm.create_model("test_resnet", num_classes=3).eval(), "test_resnet"
        head, before = (
            network.fc,
            lambda numbers: network.forward_head(network.forward_features(numbers), pre_logits=True),
        )
    with torch.no_grad():  # so that the pictures get different answers
        logits = head(before(prepared(PICTURES))).flatten(1)
        head.bias.sub_(logits.mean(0))
        for values in (head.weight, head.bias):
            values.mul_(1 / logits.std(0).mean())
        if library == "torchvision":
            head.bias.add_(3)  # a ReLU follows
    save(network, tmp_path / "net", (SIZE, SIZE))
    save_file(network.state_dict(), tmp_path / "net" / "net.safetensors")
    right = answers(network, PICTURES)
    named = f'kind = "torch_network"\nlibrary = "{library}"\nname = "{name}"\nweights = "net.safetensors"\n'
    for source in (SCRIPT, EXPORT, named):
        spec = write(source, size=(SIZE, SIZE))
        for choice in (AUTO, TORCH):
            engine = load(spec, choice)
            assert engine.name == choice.engine, source
            np.testing.assert_allclose(engine.predict(PICTURES)[0], right, atol=1e-4)


def test_a_network_that_openvino_can_t_convert_runs_on_pytorch(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = Bessel().eval()
    save(network, tmp_path / "net")
    for source, operation in (
        (SCRIPT, "aten::special_bessel_j0"),
        (EXPORT, "aten.special_bessel_j0.default"),
    ):
        spec = write(source)
        chosen = choose_for(spec, "auto", "auto", keras_backend="tensorflow")
        engine = load(spec, chosen)
        assert (engine.name, engine.precision) == ("torch", "fp32")
        assert operation in caplog.text
        np.testing.assert_allclose(engine.predict(SMALL)[0], answers(network), atol=1e-5)
        with pytest.raises(ModelUnavailable, match=rf"{operation}.*ENGINE=torch runs it"):
            load(spec, EngineChoice("openvino", "fp32"))
        # What the conversion found is in the store: a later start does not try again.
        monkeypatch.setattr(importing, "write", None)
        assert load(spec, chosen).name == "torch"
        monkeypatch.undo()
        monkeypatch.setattr(conversion, "_run_child", convert_here)


def test_a_network_exported_for_one_picture_takes_many(write: Write, tmp_path: Path) -> None:
    network = Small().eval()
    save(network, tmp_path / "net", batch=1)
    for choice in (AUTO, TORCH):
        engine = load(write(EXPORT), choice)
        assert engine.name == choice.engine
        np.testing.assert_allclose(engine.predict(SMALL)[0], answers(network), atol=1e-5)


def test_files_in_half_precision_run_in_fp32(write: Write, tmp_path: Path) -> None:
    network = Small().eval().half()
    save(network, tmp_path / "net")
    right = answers(network.float())
    for source in (SCRIPT, EXPORT):
        for choice in (AUTO, TORCH):
            np.testing.assert_allclose(load(write(source), choice).predict(SMALL)[0], right, atol=1e-5)


def test_a_checkpoint_of_several_devices_is_read(write: Write, tmp_path: Path) -> None:
    # Its position embedding is for this size, and its one number is the second label's.
    network = timm.create_model("test_vit", num_classes=1, img_size=SIZE).eval()
    with torch.no_grad():
        network.head.weight.mul_(20)
    (tmp_path / "net").mkdir()
    state = {f"module.{key}": value.half() for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net" / "net.pth")
    network.half().float()
    spec = write(
        'kind = "torch_network"\nlibrary = "timm"\nname = "test_vit"\nweights = "net.pth"\n',
        labels=2,
        size=(SIZE, SIZE),
        last="sigmoid",
    )
    with torch.no_grad():
        right = network(prepared(PICTURES)).sigmoid().numpy()[:, 0]
    np.testing.assert_allclose(load(spec, TORCH).predict(PICTURES)[0][:, 1], right, atol=1e-4)


def test_a_transformer_of_torchvision_is_converted(write: Write) -> None:
    settings = {"image_size": SIZE, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8}
    network = torchvision.models.VisionTransformer(**settings, mlp_dim=8, num_classes=3).eval()
    with torch.no_grad():
        network.heads[0].weight.normal_()
    loaded = PyTorchNetwork(write(SCRIPT, size=(SIZE, SIZE)), network)
    model = runtime.convert_torch(*for_translation(loaded))
    numbers = prepared(PICTURES)
    (found,) = runtime.compile_for_cpu(model, "fp32")([numbers.numpy()]).values()
    with torch.no_grad():
        np.testing.assert_allclose(found, network(numbers).numpy(), atol=1e-4)


class Pair(NamedTuple):
    """A detector's outputs, in the order that model.toml does not say."""

    scores: "torch.Tensor"
    boxes: "torch.Tensor"


class Detector(Small):
    """Two boxes of three classes, in a dict."""

    def __init__(self) -> None:
        super().__init__(14)

    def forward(self, numbers: Any) -> Any:  # noqa: ANN401
        out = self.linear(torch.relu(self.convolution(numbers)).flatten(1)).sigmoid()
        return {"scores": out[:, 8:].reshape(-1, 2, 3), "boxes": out[:, :8].reshape(-1, 2, 4)}


class NamedDetector(Detector):
    """The same, in a NamedTuple."""

    def forward(self, numbers: "torch.Tensor") -> Pair:
        out = self.linear(torch.relu(self.convolution(numbers)).flatten(1)).sigmoid()
        return Pair(out[:, 8:].reshape(-1, 2, 3), out[:, :8].reshape(-1, 2, 4))


def test_outputs_have_the_names_of_a_dict_or_a_named_tuple(write: Write, tmp_path: Path) -> None:
    network = Detector().eval()
    folder = tmp_path / "net"
    folder.mkdir()
    example = torch.zeros(2, 3, 8, 9)
    torch.jit.script(NamedDetector().eval()).save(folder / "net.pt")
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=dynamic), folder / "net.pt2")
    with torch.no_grad():
        right = network(prepared(SMALL))
    rest = '[detection]\nboxes = "boxes"\nscores = "scores"\nformat = "cxcywh"\n'
    for source in (SCRIPT, EXPORT):
        for choice in (AUTO, TORCH):
            engine = load(write(source, last="none", rest=rest), choice)
            assert engine.name == choice.engine
            for found, name in zip(engine.predict(SMALL), ("boxes", "scores"), strict=True):
                np.testing.assert_allclose(found, right[name].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("lraspp_mobilenet_v3_large", {"weights_backbone": None}, "out"),
        ("googlenet", {"aux_logits": False, "init_weights": False}, ""),
    ],
)
def test_networks_of_torchvision_are_built_as_their_weights_are_and_without_a_download(
    write: Write, tmp_path: Path, name: str, options: dict[str, Any], output: str
) -> None:
    network = torchvision.models.get_model(name, weights=None, num_classes=3, **options).eval()
    (tmp_path / "net").mkdir()
    torch.save(network.state_dict(), tmp_path / "net" / "net.pth")
    source = f'kind = "torch_network"\nlibrary = "torchvision"\nname = "{name}"\nweights = "net.pth"\n'
    loaded = sources.load(write(source, size=(SIZE, SIZE)))
    (found,) = loaded.outputs(PICTURES[:2])
    assert loaded.names == [[output] if output else []]
    with torch.no_grad():
        right = network(prepared(PICTURES[:2]))
    np.testing.assert_allclose(found, (right[output] if output else right).numpy(), atol=1e-4)


RAN = "the pickle of the test ran"


class Harmful:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, (RAN,)


def test_no_pickle_is_ever_run(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "net"
    save(Small().eval(), folder)
    torch.save({"weight": Harmful()}, folder / "net.pth")
    with zipfile.ZipFile(folder / "net.pt2") as archive, zipfile.ZipFile(folder / "bad.pt2", "w") as bad:
        for name in archive.namelist():
            harmful = name.endswith("sample_inputs/model.pt")
            bad.writestr(name, pickle.dumps(Harmful()) if harmful else archive.read(name))
    with zipfile.ZipFile(folder / "net.pt2") as archive, zipfile.ZipFile(folder / "code.pt2", "w") as bad:
        for name in archive.namelist():
            bad.writestr(name, archive.read(name))
        bad.writestr("code/data/constants/opaque_obj_0", pickle.dumps(Harmful()))
    named = 'kind = "torch_network"\nlibrary = "torchvision"\nname = "resnet18"\nweights = "net.pth"\n'
    for source, words in (
        (named, "can't be read|pickled Python objects"),
        (EXPORT.replace("net", "bad"), "that PyTorch can read"),
        (EXPORT.replace("net", "code"), "would run its author's own code"),
    ):
        with pytest.raises(ModelUnavailable, match=words):
            load(write(source))
    assert RAN not in capsys.readouterr().out


GREY = """import numpy as np

def preprocess(image):
    return (image @ np.array([0.3, 0.6, 0.1]) / 255)[None]
"""
COUNTS = """import numpy as np

def preprocess(image):
    return np.histogram(image, 5, (0, 256))[0].astype(np.int64)
"""


def _grey(pictures: NDArray[Any]) -> Any:  # noqa: ANN401
    return torch.from_numpy((pictures @ np.array([0.3, 0.6, 0.1]) / 255)[:, None].astype(np.float32))


def _hooked(write: Write, source: str, code: str, rest: str = "") -> ModelSpec:
    """The model with this hooks.py, and `rest` in its [input]."""
    folder = write(source).folder
    (folder / "hooks.py").write_text(code)
    toml = (folder / "model.toml").read_text().replace('normalise = "torch"', f'normalise = "none"{rest}')
    (folder / "model.toml").write_text(toml)
    return read_model(folder.parent, folder.name)


@pytest.mark.parametrize("choice", [AUTO, TORCH], ids=["openvino", "torch"])
@pytest.mark.parametrize("rest", ["", '\nlibrary = "tensorflow"'], ids=["whole", "fractions"])
def test_a_network_of_pytorch_takes_what_preprocess_makes(
    write: Write, tmp_path: Path, choice: EngineChoice, rest: str
) -> None:
    torch.manual_seed(8)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).eval()
    with torch.no_grad():
        network[3].weight.mul_(10)
    network.half().float()  # the same numbers in both files
    (tmp_path / "net").mkdir()
    example = torch.zeros(2, 1, 8, 9)
    torch.jit.trace(network, example).save(tmp_path / "net" / "net.pt")
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network.half(), (example.half(),), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "net" / "net.pt2")
    network.float()
    pixels = SMALL[:3] + (np.float32(0.25) if rest else np.uint8(0))
    jobs = fixed_point.split(pixels) if rest else pixels
    with torch.no_grad():
        right = network(_grey(pixels)).softmax(1).numpy()
    assert np.ptp(right, axis=0).max() > 0.01
    for source in (SCRIPT, EXPORT):
        engine: Any = load(_hooked(write, source, GREY, rest), choice)
        assert engine.name == choice.engine
        prepared_ones = np.stack([engine.prepare(job) for job in jobs])
        np.testing.assert_allclose(engine.predict(prepared_ones)[0], right, atol=1e-5)
        engine.close()
        (tmp_path / "net" / "hooks.py").unlink()


@pytest.mark.parametrize("choice", [AUTO, TORCH], ids=["openvino", "torch"])
def test_preprocess_may_make_integers_of_any_shape_for_pytorch(
    write: Write, tmp_path: Path, choice: EngineChoice
) -> None:
    class Embedding(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(9)
            self.rows = nn.Embedding(300, 3)

        def forward(self, counts: Any) -> Any:  # noqa: ANN401
            return self.rows(counts).mean(1)

    network = Embedding().eval()
    (tmp_path / "net").mkdir()
    torch.jit.trace(network, torch.zeros(2, 5, dtype=torch.int64)).save(tmp_path / "net" / "net.pt")
    engine: Any = load(_hooked(write, SCRIPT, COUNTS), choice)
    assert engine.name == choice.engine
    counts = np.stack([engine.prepare(picture) for picture in SMALL])
    assert counts.shape == (len(SMALL), 5)
    assert counts.dtype == np.int64
    with torch.no_grad():
        right = network(torch.from_numpy(counts)).softmax(1).numpy()
    np.testing.assert_allclose(engine.predict(counts)[0], right, atol=1e-5)
    engine.close()


def test_a_network_of_timm_is_built_for_the_channels_that_preprocess_makes(
    write: Write, tmp_path: Path
) -> None:
    torch.manual_seed(10)
    network = timm.create_model("test_resnet", num_classes=3, in_chans=1).eval()
    (tmp_path / "net").mkdir()
    save_file(network.state_dict(), tmp_path / "net" / "net.safetensors")
    source = 'kind = "torch_network"\nlibrary = "timm"\nname = "test_resnet"\nweights = "net.safetensors"\n'
    engine: Any = load(_hooked(write, source, GREY))
    with torch.no_grad():
        right = network(_grey(SMALL)).softmax(1).numpy()
    made = np.stack([engine.prepare(picture) for picture in SMALL])
    np.testing.assert_allclose(engine.predict(made)[0], right, atol=1e-4)
    engine.close()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SCRIPT, r"on 1 x 8 x 9 x 3 numbers \(.*\)\. preprocess in hooks\.py returns \(8, 9, 3\) of float32"),
        (
            EXPORT,
            r"takes \['\?', 3, 8, 9\], but preprocess in hooks\.py returns another shape: \[1, 8, 9, 3\]",
        ),
    ],
)
def test_an_array_of_another_shape_is_refused_with_both(
    write: Write, tmp_path: Path, source: str, words: str
) -> None:
    save(Small().eval(), tmp_path / "net")
    with pytest.raises(ModelUnavailable, match=words):
        load(_hooked(write, source, "def preprocess(image): return image / 255"))


def _two_inputs(folder: Path) -> None:
    class Sum(Module):  # type: ignore[misc]
        def forward(self, one: Any, two: Any) -> Any:  # noqa: ANN401
            return one + two

    example = (torch.zeros(2, 3, 8, 9),) * 2
    torch.jit.trace(Sum(), example).save(folder / "net.pt")
    torch.export.save(torch.export.export(Sum(), example), folder / "net.pt2")


def _in_training(folder: Path) -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.Linear(216, 3)).train()
    torch.jit.trace(network, torch.zeros(2, 3, 8, 9), check_trace=False).save(folder / "net.pt")
    torch.export.save(torch.export.export(network, (torch.ones(2, 3, 8, 9),)), folder / "net.pt2")


def _cut_short(folder: Path) -> None:
    save(Small().eval(), folder)
    for name in ("net.pt", "net.pt2"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])


def _another_size(folder: Path) -> None:
    save(Small().eval(), folder, batch=2)


def _pickled(folder: Path) -> None:
    torch.save(Small(), folder / "net.pt")
    shutil.copy(folder / "net.pt", folder / "net.pt2")


def _state(folder: Path) -> None:
    torch.save(Small().state_dict(), folder / "net.pt")
    shutil.copy(folder / "net.pt", folder / "net.pt2")


def _crossed(folder: Path) -> None:
    save(Small().eval(), folder)
    (folder / "net.pt").rename(folder / "other")
    (folder / "net.pt2").rename(folder / "net.pt")
    (folder / "other").rename(folder / "net.pt2")


@pytest.mark.parametrize(
    ("make", "script", "export"),
    [
        (_two_inputs, r"2 inputs \(one, two\)", r"2 inputs \(one, two\)"),
        (_in_training, "network.eval.. before torch.jit.trace", "network.eval.. before torch.export"),
        (
            _cut_short,
            "net.pt is not a TorchScript file that.*cut short",
            "net.pt2 is not an exported.*cut short",
        ),
        (_another_size, r"can't run it on 1 x 3 x 5 x 9", r"takes \[2, 3, 8, 9\].*\[1, 3, 5, 9\]"),
        (_pickled, "pickled Python objects.*torch.jit.script", "pickled Python objects.*torch.jit.script"),
        (_state, 'write kind = "torch_network"', 'write kind = "torch_network"'),
        (
            _crossed,
            'write kind = "torch_export", not "torchscript"',
            'write kind = "torchscript", not "torch_export"',
        ),
    ],
)
def test_what_can_not_be_served_is_refused_with_what_to_do(
    write: Write, tmp_path: Path, make: Callable[[Path], None], script: str, export: str
) -> None:
    (tmp_path / "net").mkdir()
    make(tmp_path / "net")
    size = (9, 5) if make is _another_size else (9, 8)
    for source, words in ((SCRIPT, script), (EXPORT, export)):
        with pytest.raises(ModelUnavailable, match=words) as refused:
            load(write(source, size=size))
        assert "\n" not in refused.value.message


@pytest.mark.parametrize(
    ("library", "name", "labels", "words"),
    [
        ("torchvision", "resnet19", 3, "torchvision has no network 'resnet19'. Some that it has: .*resnet18"),
        ("timm", "hf-hub:timm/resnet18", 3, "timm has no network 'hf-hub:timm/resnet18'"),
        (
            "torchvision",
            "squeezenet1_1",
            4,
            r"for 4 labels: 'classifier.1.weight' is \(3, 512, 1, 1\), not \(4, ",
        ),
        (
            "torchvision",
            "alexnet",
            3,
            "does not have the weights of torchvision's alexnet.*: it lacks 'features",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    write: Write, tmp_path: Path, library: str, name: str, labels: int, words: str
) -> None:
    (tmp_path / "net").mkdir()
    network = torchvision.models.squeezenet1_1(num_classes=3)
    torch.save(network.state_dict(), tmp_path / "net" / "net.pth")
    source = f'kind = "torch_network"\nlibrary = "{library}"\nname = "{name}"\nweights = "net.pth"\n'
    with pytest.raises(ModelUnavailable, match=words):
        load(write(source, labels=labels, size=(SIZE, SIZE)))


def test_a_file_of_pytorch_becomes_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`new` runs the network on one picture of the usual size: its file does not say what it takes."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(5)
    pooled = nn.Sequential(nn.Conv2d(3, 6, 3, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    torch.jit.script(pooled).save(str(tmp_path / "pooled.pt"))
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{number}\n" for number in range(6)))
    assert new.main([str(tmp_path / "pooled.pt"), str(labels)]) == DONE
    spec = read_model(tmp_path / "models", "pooled")
    assert (spec.task.name, spec.activation, spec.input.width, spec.normalise) == (
        *("classification", "softmax"),
        *(224, "torch"),
    )
    torch.save(pooled, tmp_path / "whole.pt")
    assert new.main([str(tmp_path / "whole.pt")]) == IMPOSSIBLE
    assert "pickled Python objects" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "size", "channels"),
    [
        ("torchscript", (28, 28), 1),
        ("torchscript", (299, 299), 3),  # one of the last to be tried; an export says it
        ("torchscript", (64, 64), 3),
        ("torchscript", (30, 20), 3),
        ("torchscript", (27, 27), 3),
        ("torch_export", (28, 28), 1),
        ("torch_export", (64, 64), 3),
        ("torch_export", (30, 20), 3),
        ("torch_export", (27, 27), 3),
    ],
)
def test_the_size_that_a_network_takes_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    size: tuple[int, int],
    channels: int,
) -> None:
    """An exported program says it; TorchScript is tried on the usual sizes."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(6)
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 4))
    example = torch.zeros(2, channels, *size)
    if kind == "torchscript":
        torch.jit.trace(network.eval(), example).save(str(tmp_path / "net.pt"))
    else:
        dynamic = ({0: torch.export.Dim("batch")},)
        torch.export.save(
            torch.export.export(network.eval(), (example,), dynamic_shapes=dynamic), tmp_path / "net.pt2"
        )
    file = next(tmp_path.glob("net.pt*"))
    if kind == "torchscript" and size in ((30, 20), (27, 27)):
        assert new.main([str(file)]) == IMPOSSIBLE
        assert "takes no square pictures of a usual size (28, 32, 64, " in capsys.readouterr().err
        return
    assert new.main([str(file)]) == DONE
    spec = read_model(tmp_path / "models", "net")
    assert spec.input.network_shape == (*size, channels)
    assert len(spec.labels) == 4


@pytest.mark.parametrize("file", ["net.safetensors", "net.pth"])
def test_weights_become_a_model_once_their_network_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(6)
    state = timm.create_model("test_resnet", num_classes=70).eval().state_dict()
    if file == "net.pth":
        torch.save(state, tmp_path / file)
    else:
        save_file(state, tmp_path / file)
    assert new.main([str(tmp_path / file)]) == IMPOSSIBLE
    said = capsys.readouterr().err
    assert all(name in said for name in ("fc.weight", "--network timm:resnet18"))
    assert new.main([str(tmp_path / file), "--network", "test_resnet"]) == IMPOSSIBLE
    assert new.main([str(tmp_path / file), "--network", "timm:resnet_of_nobody"]) == IMPOSSIBLE
    assert "timm has no network 'resnet_of_nobody'" in capsys.readouterr().err
    assert new.main([str(tmp_path / file), "--network", "timm:test_resnet"]) == DONE
    spec = read_model(tmp_path / "models", "net")
    assert (spec.task.name, len(spec.labels)) == ("classification", 70)
    # As timm publishes it.
    assert (spec.input.network_shape, spec.normalise) == ((160, 160, 3), "tf")


@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 1), ("test_vit", 3)])
def test_weights_whose_network_takes_another_input_become_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, channels: int
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    torch.manual_seed(6)
    network = timm.create_model(name, num_classes=7, in_chans=channels)
    save_file(network.eval().state_dict(), tmp_path / "net.safetensors")
    assert new.main([str(tmp_path / "net.safetensors"), "--network", f"timm:{name}"]) == DONE
    assert read_model(tmp_path / "models", "net").input.network_shape == (160, 160, channels)


def _model(folder: Path, task: str, source: str) -> ModelSpec:
    """A model of a task that has no labels."""
    folder.mkdir(exist_ok=True)
    (folder / "model.toml").write_text(
        f'task = "{task}"\n[source]\n{source}[input]\nwidth = {SIZE}\nheight = {SIZE}\nchannels = 3\n'
        'fit = "stretch"\nnormalise = "torch"\n'
    )
    return read_model(folder.parent, folder.name)


def test_a_timm_embedding_points_where_pytorch_s_does(tmp_path: Path) -> None:
    torch.manual_seed(11)
    network = timm.create_model("test_resnet", num_classes=0).eval()
    (tmp_path / "net").mkdir()
    save_file(network.state_dict(), tmp_path / "net" / "net.safetensors")
    source = 'kind = "torch_network"\nlibrary = "timm"\nname = "test_resnet"\nweights = "net.safetensors"\n'
    spec = _model(tmp_path / "net", "embedding", source)
    (vectors,) = load(spec).predict(PICTURES)
    options = ReadOptions((SIZE, SIZE), 1)
    with torch.no_grad():
        right = torch.nn.functional.normalize(network(prepared(PICTURES))).numpy()
    for vector, expected in zip(vectors, right, strict=True):
        embedding = spec.task.read((vector,), spec, options).embedding
        assert float(np.dot(np.array(embedding), expected)) >= 0.9999
    assert np.linalg.norm(right[0] - right[1]) > 1e-3  # it tells pictures apart


def test_a_network_that_enlarges_makes_pytorch_s_picture(tmp_path: Path) -> None:
    """ESPCN (Shi et al. 2016): convolutions, then channels that become pixels."""
    torch.manual_seed(12)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.PixelShuffle(2),
        nn.Sigmoid(),
    ).eval()
    (tmp_path / "net").mkdir()
    torch.jit.script(network).save(str(tmp_path / "net" / "net.pt"))
    spec = _model(tmp_path / "net", "image", SCRIPT)
    (made,) = load(spec).predict(PICTURES[:2])
    with torch.no_grad():
        right = network(prepared(PICTURES[:2])).permute(0, 2, 3, 1).numpy() * 255
    image = spec.task.read((made[0],), spec, ReadOptions((SIZE, SIZE), 1)).image
    assert image is not None
    assert image.shape == (2 * SIZE, 2 * SIZE, 3)
    pixels = np.frombuffer(image.data, np.uint8).reshape(image.shape)
    assert np.abs(pixels - right[0]).max() <= 0.51
    assert pixels.std() > 5


def test_a_picture_on_which_pytorch_fails_costs_itself_alone(write: Write, tmp_path: Path) -> None:
    class Picky(Small):
        """It bears no picture that is white in its corner."""

        def forward(self, numbers: Any) -> Any:  # noqa: ANN401
            assert not bool((numbers[:, 0, 0, 0] > 2.2).any())
            return super().forward(numbers)

    save(Small().eval(), tmp_path / "net")
    engine: Any = load(write(SCRIPT), TORCH)
    engine._network.module = Picky().eval()
    pictures = SMALL.copy()
    pictures[:, 0, 0] = 0
    pictures[2, 0, 0] = 255
    with pytest.raises(AssertionError):
        engine.predict(pictures)
    assert len(engine.predict(pictures[:2])[0]) == 2


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (
            "convert_torch",
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
        ),
        ("save_model", RuntimeError("basic_ios::clear: iostream error")),
        ("compile_for_cpu", RuntimeError("Check 'ok' failed: std::bad_alloc")),
    ],
)
def test_a_conversion_that_the_machine_failed_is_tried_again_at_the_next_start(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    function: str,
    error: Exception,
) -> None:
    """PyTorch runs the network meanwhile, and nothing is stored."""
    network = Small().eval()
    save(network, tmp_path / "net")

    def fail(*_: object, **_options: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(runtime, function, fail)
        engine = load(write(SCRIPT))
    assert engine.name == "torch"
    assert "until the next start, which tries again" in caplog.text
    assert not list((tmp_path / "cache").glob("net-*"))
    assert load(write(SCRIPT)).name == "openvino"


def _converter(folder: Path, does: str) -> Path:
    """A shell that does this, and then is the Python of the conversion's child process.

    It finds a network whose reference is small, and whose weights are not.
    """
    save(nn.Sequential(nn.Flatten(), nn.Linear(216, 200), nn.Linear(200, 3)).eval(), folder / "net")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\n{does}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(("does", "engine"), [("kill -9 $$", ""), ("ulimit -f 40", "torch")])
def test_a_child_that_dies_or_finds_no_room_leaves_nothing_in_the_store(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, engine: str
) -> None:
    monkeypatch.setattr(conversion, "_run_child", RUN_CHILD)
    monkeypatch.setattr(sys, "executable", str(_converter(tmp_path, does)))
    if engine:
        assert load(write(SCRIPT)).name == engine
    else:
        with pytest.raises(ModelUnavailable, match=r"can't be converted for OpenVINO \(exit status -9"):
            load(write(SCRIPT))
    assert not list((tmp_path / "cache").glob("net-*"))


SERVES = """import sys
from pathlib import Path
from model_server.engines import loading
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.choice import EngineChoice
spec = read_model(Path(sys.argv[1]), "net")
options = EngineOptions(8, Path(sys.argv[1], "cache"))
sys.executable = sys.argv[2]
engine = loading.load(spec, EngineChoice("openvino", "fp32", "torch"), options)
print(engine.name, "torch" in sys.modules)
"""


def test_a_process_that_serves_with_openvino_never_loads_pytorch(write: Write, tmp_path: Path) -> None:
    """Its child does, which makes the store's entry where nothing is in its way."""
    python = _converter(tmp_path, "true")
    write(EXPORT)
    done = subprocess.run(
        [sys.executable, "-c", SERVES, tmp_path, python],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "openvino False\n", done.stderr[-3000:]
    assert len(list((tmp_path / "cache").glob("net-*"))) == 1
