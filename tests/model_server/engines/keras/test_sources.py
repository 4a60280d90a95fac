"""Where networks come from, with the real Keras: downloads that fail, weights of the user's own, files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_BUILD = """
import json, sys, time
from pathlib import Path
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server import engines
from model_server.engines.choice import EngineChoice
import numpy as np
models, name, weights = sys.argv[1:4]
spec = read_model(Path(models), name, weights=weights or None)
began = time.monotonic()
try:
    options = engines.EngineOptions(batch_size=2, cache=Path("none"))
    engine = engines.load(spec, EngineChoice("tensorflow", "fp32"), options)
except ModelUnavailable as error:
    print(json.dumps({"error": error.message, "seconds": time.monotonic() - began}))
else:
    outputs = [engine.predict(np.full((n, *spec.input.shape), 9, np.uint8))[0].shape for n in (1, 2, 3)]
    first = engine.predict(np.full((1, *spec.input.shape), 9, np.uint8))[0][0]
    figures = {"sum": float(first.sum()), "first": float(first[0])}
    print(json.dumps({"shapes": outputs, **figures}))
"""


def _build(tmp_path: Path, name: str, weights: str, models: Path = ROOT / "models") -> dict[str, object]:
    """Load a model in a process of its own, without a network and with an empty home."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    # Nobody listens there: every download fails, on a machine with a network too.
    proxy = "http://127.0.0.1:9"
    environment |= {"HOME": str(home), "HTTPS_PROXY": proxy, "https_proxy": proxy}
    environment.pop("KERAS_HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(models), name, weights],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_without_a_network_the_download_fails_with_a_reason_and_three_ways_out(tmp_path: Path) -> None:
    error = _build(tmp_path, "resnet50", "imagenet")["error"]
    assert isinstance(error, str)
    assert error.startswith("resnet50: the ImageNet weights could not be downloaded (")
    assert "refused" in error
    for way_out in ("let this machine download them", "RESNET50_WEIGHTS=PATH", "RESNET50_WEIGHTS=random"):
        assert way_out in error


def test_random_weights_need_no_network_and_answer_alike_everywhere(tmp_path: Path) -> None:
    first, second = _build(tmp_path, "resnet50", "random"), _build(tmp_path, "resnet50", "random")
    assert first["shapes"] == [[1, 1000], [2, 1000], [3, 1000]]
    assert first["sum"] == pytest.approx(1.0, abs=1e-3)
    assert first == second


def test_densenet121_is_served_as_well(tmp_path: Path) -> None:
    assert _build(tmp_path, "densenet121", "random")["shapes"] == [[1, 1000], [2, 1000], [3, 1000]]
    assert "DENSENET121_WEIGHTS=random" in str(_build(tmp_path, "densenet121", "imagenet")["error"])


def test_weights_of_the_user_s_own_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.weights.h5"
    save = (
        "import keras, sys; keras.utils.set_random_seed(7); "
        "keras.applications.ResNet50(weights=None).save_weights(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", save, str(path)], check=True, capture_output=True, timeout=240)
    mine, random = _build(tmp_path, "resnet50", str(path)), _build(tmp_path, "resnet50", "random")
    assert mine["shapes"] == random["shapes"]
    assert mine["first"] != random["first"]


@pytest.mark.parametrize("content", [None, b"no weights at all"])
def test_weights_that_are_none_are_said_so(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.weights.h5"
    if content is not None:
        path.write_bytes(content)
    error = str(_build(tmp_path, "resnet50", str(path))["error"])
    assert str(path) in error
    assert "Three ways out" in error


def test_a_keras_file_that_is_none_is_said_so(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "digits"
    folder.mkdir(parents=True)
    for name in ("model.toml", "labels.csv"):
        (folder / name).write_bytes((ROOT / "models" / "digits" / name).read_bytes())
    assert "no file 'digits.keras'" in str(_build(tmp_path, "digits", "", tmp_path / "models")["error"])
    (folder / "digits.keras").write_bytes(b"PK no zip")
    error = str(_build(tmp_path, "digits", "", tmp_path / "models")["error"])
    assert "can't load digits.keras" in error
    assert "cut short, or it is a Git LFS pointer" in error


_GREY = """
import sys, keras
keras.utils.set_random_seed(3)
shape, units, last, path = eval(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(units, activation=last)]
if "lambda" in sys.argv:
    layers.append(keras.layers.Lambda(lambda x: x * 1))
keras.Sequential(layers).save(path)
"""

_GREY_TOML = """task = "classification"
labels = "labels.txt"
top = 2
[source]
kind = "keras_file"
file = "net.keras"
[input]
width = 28
height = 28
channels = 1
fit = "stretch"
normalise = "unit"
"""


def _grey(tmp_path: Path, shape: str, units: int, last: str, labels: str, *more: str) -> dict[str, object]:
    """Build a Keras network of grey pictures."""
    folder = tmp_path / "models" / "grey"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(_GREY_TOML)
    (folder / "labels.txt").write_text(labels)
    command = [sys.executable, "-c", _GREY, shape, str(units), last, str(folder / "net.keras"), *more]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    return _build(tmp_path, "grey", "", tmp_path / "models")


def test_a_network_of_grey_pictures_may_leave_out_their_channel(tmp_path: Path) -> None:
    found = _grey(tmp_path, "(28, 28)", 3, "softmax", "a\nb\nc\n")
    assert found["shapes"] == [[1, 3], [2, 3], [3, 3]]


def test_one_number_for_two_labels_is_the_probability_of_the_second(tmp_path: Path) -> None:
    found = _grey(tmp_path, "(28, 28, 1)", 1, "sigmoid", "a\nb\n")
    assert found["shapes"] == [[1, 2], [2, 2], [3, 2]]
    assert found["sum"] == pytest.approx(1, abs=1e-6)


def test_a_network_of_rows_is_refused_with_the_layer_that_it_needs(tmp_path: Path) -> None:
    error = str(_grey(tmp_path, "(784,)", 3, "softmax", "a\nb\nc\n")["error"])
    assert "takes (784,), not pictures" in error
    assert "keras.Input((28, 28, 1)), keras.layers.Reshape((784,)), network])" in error


def test_a_file_with_code_of_its_own_is_refused_with_the_way_to_export_it(tmp_path: Path) -> None:
    error = str(_grey(tmp_path, "(28, 28, 1)", 3, "softmax", "a\nb\nc\n", "lambda")["error"])
    assert 'model.export("exported"), and serve that folder with kind = "saved_model"' in error
