"""Networks of PyTorch and PaddlePaddle, served: the same answers as by those libraries themselves, unserved.

Needs the environment that `make test-importers` makes.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_server import engines
from model_server.catalogue.model_spec import read_model
from model_server.engines import EngineOptions
from model_server.engines.choice import EngineChoice
from tests.support import ROOT
from tests.support.real_data import MNIST, PHOTOS
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

PYTHON = ROOT / "var" / "importers" / "bin" / "python"

pytestmark = [
    pytest.mark.importers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.is_file(), reason="no var/importers: `make test-importers` makes it"),
]

DENSENET = """task = "classification"
labels = "labels.csv"
top = 5
[source]
kind = "onnx"
file = "densenet121.onnx"
[input]
width = 224
height = 224
channels = 3
fit = "crop"
resize = 255
normalise = "torch"
[output]
activation = "softmax"
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


def _export(kind: str, folder: Path) -> None:
    command = [str(PYTHON), str(ROOT / "tests" / "importers" / "exports.py"), kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


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
    answer = httpx.post(url, files=files, trust_env=False, timeout=120).json()
    return [
        {each["class_id"]: each["probability"] for each in result["predictions"]}
        for result in answer["results"]
    ]


def _scenes(folder: Path) -> None:
    """Photos, where they are at hand, and drawn ones; as PNG, which everybody decodes alike."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(6)
    for number, size in enumerate([(640, 360), (300, 500), (256, 256), (1000, 270)]):
        rough = chance.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(folder / f"drawn{number}.png")
    for path in sorted(PHOTOS.glob("*.[jb][pm][gp]"))[:5]:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.png")


def test_densenet121_of_pytorch_is_served_as_pytorch_answers(stack: Stack, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "net"
    _scenes(tmp_path / "photos")
    _export("densenet", tmp_path)
    folder.mkdir(parents=True)
    for path in tmp_path.glob("densenet121.onnx*"):  # large weights lie beside it
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
    # A crop out of a resize and a resize of a crop round pixels a little differently.
    np.testing.assert_allclose(found, right, atol=0.02)
    assert found.argmax(axis=1).tolist() == right.argmax(axis=1).tolist()
    print(f"largest difference {np.abs(found - right).max():.2g} of {len(paths)} pictures")  # noqa: T201


def test_an_onnx_made_for_one_picture_gives_what_onnx_runtime_gives(tmp_path: Path) -> None:
    pictures = np.random.default_rng(7).integers(0, 256, (19, 16, 20, 3), dtype=np.uint8)
    folder = tmp_path / "models" / "net"
    folder.mkdir(parents=True)
    np.save(tmp_path / "pictures.npy", pictures)
    _export("fixed", tmp_path)
    (tmp_path / "fixed.onnx").rename(folder / "fixed.onnx")
    (folder / "model.toml").write_text(FIXED)
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    spec = read_model(tmp_path / "models", "net")
    engine = engines.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))
    np.testing.assert_allclose(engine.predict(pictures)[0], np.load(tmp_path / "fixed.npy"), atol=1e-5)


def test_digits_of_paddlepaddle_are_served_from_their_folder(stack: Stack, tmp_path: Path) -> None:
    pictures, labels = _digits()
    np.save(tmp_path / "pictures.npy", pictures)
    if MNIST.is_file():
        shutil.copy(MNIST, tmp_path)
    _export("paddle", tmp_path)
    folder = tmp_path / "models" / "net"
    shutil.copytree(tmp_path / "lenet", folder / "lenet")
    (folder / "model.toml").write_text(LENET)
    (folder / "labels.txt").write_text("\n".join("0123456789"))
    _serve(stack)
    paths = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures, strict=True):
        Image.fromarray(pixels[..., 0]).save(path)
    answers = _answers(stack, paths, top=10)
    found = np.array([[answer[str(digit)] for digit in range(10)] for answer in answers])
    np.testing.assert_allclose(found, np.load(tmp_path / "paddle.npy"), atol=1e-4)
    if labels is not None:
        assert (found.argmax(axis=1) == labels).mean() > 0.9


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """MNIST's first 60 test pictures and their labels; noise, where it is not at hand."""
    if not MNIST.is_file():
        return np.random.default_rng(8).integers(0, 256, (60, 28, 28, 1), dtype=np.uint8), None
    with np.load(MNIST, allow_pickle=False) as data:
        return data["x_test"][:60, :, :, None], data["y_test"][:60]
