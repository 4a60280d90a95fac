"""Networks of PyTorch and PaddlePaddle, served: the same answers as by those libraries themselves, unserved.

Needs the environment that `make test-importers` makes.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.errors import ModelUnavailable
from broker.messages import Decode, Fit, InputSpec, Resample
from model_server.catalogue.model_spec import read_model
from model_server.commands import check
from model_server.commands.terminal import DONE
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from pictures import fit
from tests.importers import joined
from tests.importers.exporting import EXPORTS, Export, ExportOnce
from tests.importers.joined import PYTHON
from tests.model_server.commands import test_golden
from tests.support import ROOT, http
from tests.support.real_data import MNIST, PHOTOS
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.importers,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("converts_here"),
    pytest.mark.skipif(not PYTHON.is_file(), reason="no var/importers: `make test-importers` makes it"),
]

DENSENET = """task = "classification"
labels = "labels.csv"
top = 5
[source]
kind = "onnx"
file = "densenet.onnx"
[input]
width = 224
height = 224
channels = 3
fit = "crop"
resize = 255
resample = "bicubic"
normalise = "torch"
[output]
activation = "softmax"
"""
SMALL = """task = "classification"
labels = "labels.txt"
top = 1
[source]
kind = "onnx"
file = "small.onnx"
[input]
width = 224
height = 224
channels = 3
"""
FIXED = """task = "classification"
labels = "labels.txt"
top = 5
[source]
kind = "onnx"
file = "fixed.onnx"
[input]
width = 20
height = 16
channels = 3
fit = "stretch"
normalise = "unit"
"""
LENET = """task = "classification"
labels = "labels.txt"
top = 3
[source]
kind = "paddle"
file = "lenet"
[input]
width = 28
height = 28
channels = 1
fit = "stretch"
normalise = "unit"
"""


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The real processes, to serve tmp_path/models/net in fp32."""
    made = Stack(tmp_path, own_redis.url, "net")
    made.environment |= {
        "MODELS_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "PRECISION": "fp32",
        "REQUEST_TIMEOUT_S": "60",
    }
    try:
        yield made
    finally:
        made.stop()


def _serve(stack: Stack) -> None:
    stack.start_web()
    stack.start("model_server", log="model_server")
    eventually(lambda: stack.answers("/readyz?model=net"), within_s=240)


def _answers(stack: Stack, paths: list[Path], *, top: int) -> list[dict[str, float]]:
    """Label or id -> probability, for each picture in turn."""
    files = [("image", (path.name, path.read_bytes())) for path in paths]
    url = f"{stack.url}/predict?top={top}"
    answer = http.post(url, files=files, timeout=120).json()
    return [
        {each["class_id"]: each["probability"] for each in result["predictions"]}
        for result in answer["results"]
    ]


def _scenes(folder: Path, only: tuple[str, ...] = ()) -> None:
    """Photos, where they are at hand, and drawn ones, or `only` these; as PNG, which all decode alike."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(6)
    for number, size in enumerate([(640, 360), (300, 500), (256, 256), (1000, 270)]):
        rough = chance.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        if not only or f"drawn{number}" in only:
            picture = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
            picture.save(folder / f"drawn{number}.png", compress_level=1)
    for path in sorted(PHOTOS.glob("*.[jb][pm][gp]"))[:5]:
        if not only or path.stem in only:
            Image.open(path).convert("RGB").save(folder / f"{path.stem}.png", compress_level=1)


def test_a_densenet_of_pytorch_is_served_as_pytorch_answers(
    stack: Stack, tmp_path: Path, export: Export
) -> None:
    folder = tmp_path / "models" / "net"
    _scenes(tmp_path / "photos")
    export("densenet", tmp_path)
    folder.mkdir(parents=True)
    for path in tmp_path.glob("densenet.onnx*"):  # large weights lie beside it
        path.rename(folder / path.name)
    (folder / "model.toml").write_text(DENSENET)
    shutil.copy(ROOT / "models" / "densenet121" / "labels.csv", folder)
    _serve(stack)
    paths = sorted((tmp_path / "photos").iterdir())
    answers = _answers(stack, paths, top=1000)
    right = np.load(tmp_path / "densenet.npy")
    assert np.ptp(right, axis=0).max() > 0.1  # it tells the pictures apart
    ids = [label.class_id for label in read_model(ROOT / "models", "densenet121").labels]
    found = np.array([[answer[each] for each in ids] for answer in answers])
    np.testing.assert_allclose(found, right, atol=1e-3)
    assert found.argmax(axis=1).tolist() == right.argmax(axis=1).tolist()
    print(f"largest difference {np.abs(found - right).max():.2g} of {len(paths)} pictures")  # noqa: T201


def test_an_onnx_made_for_one_picture_gives_what_onnx_runtime_gives(tmp_path: Path, export: Export) -> None:
    pictures = np.random.default_rng(7).integers(0, 256, (19, 16, 20, 3), dtype=np.uint8)
    folder = tmp_path / "models" / "net"
    folder.mkdir(parents=True)
    np.save(tmp_path / "pictures.npy", pictures)
    export("fixed", tmp_path)
    (tmp_path / "fixed.onnx").rename(folder / "fixed.onnx")
    (folder / "model.toml").write_text(FIXED)
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    spec = read_model(tmp_path / "models", "net")
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))
    np.testing.assert_allclose(engine.predict(pictures)[0], np.load(tmp_path / "fixed.npy"), atol=1e-5)


@pytest.fixture
def digits(export_once: ExportOnce) -> Path:
    """The folder of LeNet, trained where MNIST is at hand, with its answers to `_digits`."""

    def prepare(folder: Path) -> None:
        np.save(folder / "pictures.npy", _digits()[0])
        if MNIST.is_file():
            shutil.copy(MNIST, folder)

    return export_once("paddle", prepare)


def test_digits_of_paddlepaddle_are_served_from_their_folder(
    stack: Stack, tmp_path: Path, digits: Path
) -> None:
    pictures, labels = _digits()
    folder = tmp_path / "models" / "net"
    shutil.copytree(digits / "lenet", folder / "lenet")
    (folder / "model.toml").write_text(LENET)
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    _serve(stack)
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels[..., 0]).save(path)
    answers = _answers(stack, paths, top=10)
    found = np.array([[answer[str(digit)] for digit in range(10)] for answer in answers])
    np.testing.assert_allclose(found, np.load(digits / "paddle.npy"), atol=1e-4)
    if labels is not None:
        assert (found.argmax(axis=1) == labels).mean() > 0.9


def test_the_advice_on_files_of_paddlepaddle_serves(tmp_path: Path, digits: Path) -> None:
    """Each wrong model.toml is corrected as its refusal says, and nothing else."""
    folder = tmp_path / "models" / "net"
    shutil.copytree(digits / "lenet", folder / "lenet")
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    weights, program = '"lenet/inference.pdiparams"', '"lenet/inference.pdmodel"'
    instead = 'write kind = "paddle", not "KIND", in [source] of model.toml'
    for kind, file, advice, right in (
        ("onnx", program, instead, program),
        ("onnx", '"lenet"', instead, '"lenet"'),
        ("tflite", weights, f"{instead}, and file = {program}", program),
        ("paddle", weights, f"write file = {program} in [source]", program),
    ):
        wrong = LENET.replace('"paddle"', f'"{kind}"').replace('"lenet"', file)
        assert _refusal(folder, wrong).count(advice.replace("KIND", kind)) == 1
        (folder / "model.toml").write_text(LENET.replace('"lenet"', right))
        spec = read_model(folder.parent, "net")
        engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(4, tmp_path / "cache"))
        found = engine.predict(_digits()[0][:8])[0]
        np.testing.assert_allclose(found, np.load(digits / "paddle.npy")[:8], atol=1e-4)
    (folder / "lenet" / "inference.pdmodel").unlink()
    assert "inference.pdmodel is missing" in _refusal(folder, LENET.replace('"lenet"', weights))


def test_the_format_that_paddlepaddle_3_writes_by_itself_is_refused_with_the_variable(
    tmp_path: Path, export: Export
) -> None:
    """With that variable set it writes what the test above serves."""
    export("paddle_3", tmp_path)
    folder = tmp_path / "models" / "net"
    shutil.copytree(tmp_path / "lenet", folder / "lenet")
    assert (folder / "lenet" / "inference.json").is_file()
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    for file in ('"lenet"', '"lenet/inference.json"', '"lenet/inference.pdmodel"'):
        assert "FLAGS_enable_pir_api=0" in _refusal(folder, LENET.replace('"lenet"', file))
    assert 'os.environ["FLAGS_enable_pir_api"] = "0"' in EXPORTS.read_text("utf-8")


def _refusal(folder: Path, toml: str) -> str:
    """Why a model can't be loaded."""
    (folder / "model.toml").write_text(toml)
    spec = read_model(folder.parent, folder.name)
    options = EngineOptions(4, folder.parent.parent / "cache")
    with pytest.raises(ModelUnavailable) as raised:
        loading.load(spec, EngineChoice("openvino", "fp32"), options)
    return raised.value.message


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """MNIST's first 60 test pictures and their labels; noise, where it is not at hand."""
    if not MNIST.is_file():
        return np.random.default_rng(8).integers(0, 256, (60, 28, 28, 1), dtype=np.uint8), None
    with np.load(MNIST, allow_pickle=False) as data:
        return data["x_test"][:60, :, :, None], data["y_test"][:60]


@pytest.mark.parametrize(
    ("library", "kernel"), [("torchvision", Resample.BILINEAR), ("timm", Resample.BICUBIC)]
)
def test_pixels_are_those_of_the_library_s_transforms(
    tmp_path: Path, export: Export, library: str, kernel: Resample
) -> None:
    """200 JPEGs of real photos, where they are at hand, and otherwise drawn: bit for bit."""
    (tmp_path / "photos").mkdir()
    _jpegs(tmp_path / "photos", 200)
    export(library, tmp_path)
    spec = InputSpec(224, 224, 3, Fit.CROP, resize=256, resample=kernel, decode=Decode.EXACT)
    right = np.load(tmp_path / f"{library}.npy")
    for path, expected in zip(sorted((tmp_path / "photos").iterdir()), right, strict=True):
        found = fit.prepare(path.read_bytes(), spec, max_pixels=50_000_000).pixels
        assert np.array_equal(found, expected), path.name


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_golden_outputs_by_the_page_s_code_agree(
    tmp_path: Path,
    export: Export,
    export_once: ExportOnce,
    library: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "net"
    shutil.copytree(export_once("small"), folder)
    (folder / "pictures").mkdir()
    _jpegs(folder / "pictures", 20)
    (folder / "labels.txt").write_text("".join(f"{number}\n" for number in range(10)))
    (folder / "model.toml").write_text(
        SMALL + test_golden.snippet(library, "toml") + '[output]\nactivation = "softmax"\n'
    )
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    test_golden.written(folder, library)
    export("golden", folder)
    archive = folder / "golden.npz"
    assert check.main([str(folder), "--golden", str(archive)]) == DONE, capsys.readouterr()
    assert "the same best class in 1.000" in capsys.readouterr().out


@pytest.mark.parametrize("file", ["test_torch.py", "test_onnxruntime.py"])
def test_engines_of_other_packages_serve(tmp_path: Path, file: str) -> None:
    """A file of tests in a process that has the product's packages, PyTorch's and ONNX Runtime."""
    python = joined.environment(tmp_path / "both")
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "importers"]
    command += ["--basetemp", str(tmp_path / "tests"), str(ROOT / "tests" / "importers" / file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "skipped" not in done.stdout


def _jpegs(folder: Path, count: int) -> None:
    """Parts of photos, of all sizes and qualities, as JPEGs; drawn ones where there are no photos."""
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.[jb][pm][gp]"))]
    chance = np.random.default_rng(9)
    if not photos:
        rough = [chance.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(5)]
        photos = [Image.fromarray(each).resize((900, 600), Image.Resampling.BICUBIC) for each in rough]
    for number in range(count):
        photo = photos[number % len(photos)]
        width, height = (int(chance.integers(120, side + 1)) for side in photo.size)
        left, top = (
            int(chance.integers(0, side - kept + 1))
            for side, kept in zip(photo.size, (width, height), strict=True)
        )
        quality, subsampling = int(chance.integers(60, 96)), int(chance.integers(0, 3))
        part = photo.crop((left, top, left + width, top + height))
        part.save(folder / f"{number:03}.jpg", quality=quality, subsampling=subsampling)
