"""Where networks come from, with the real Keras: downloads that fail, weights of the user's own, files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from tests.support import ROOT, keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_PROGRAM = """
import hashlib, json, sys
from pathlib import Path
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines import loading
from model_server.engines.check import drawn_pictures
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.engines.keras import sources
import numpy as np

# The check of an engine runs the network on ten pictures, twice: one will do here.
ten = drawn_pictures.draw
drawn_pictures.draw = lambda spec: ten(spec)[:1]

digests = []
build_network = sources.build

def build_and_digest(spec):
    network = build_network(spec)
    digests.append(digest(network))
    return network

sources.build = build_and_digest

def build(models, name, weights):
    spec = read_model(Path(models), name, weights=weights or None)
    try:
        options = EngineOptions(batch_size=2, cache=Path("none"))
        engine = loading.load(spec, EngineChoice("tensorflow", "fp32"), options)
    except ModelUnavailable as error:
        return {"error": error.message}
    rows = [engine.predict(np.full((n, *spec.input.shape), 9, np.uint8))[0] for n in (1, 3)]
    return {"shapes": [each.shape for each in rows], "sum": float(rows[0].sum())}

def reference(models, name, weights):
    from model_server.engines.keras.network import KerasNetwork
    network = KerasNetwork(read_model(Path(models), name, weights=weights))
    (output,) = network.reference().outputs
    return {"shape": output.shape, "sum": float(output.sum()), "digest": digests[-1]}

def digest(network):
    content = hashlib.sha256()
    for array in network.get_weights():
        content.update(array.tobytes())
    return content.hexdigest()

def weights(models, name, weights):
    sources.build(read_model(Path(models), name, weights=weights))
    return digests[-1]

def save_weights(network, path):
    import keras
    keras.utils.set_random_seed(7)
    network = getattr(keras.applications, network)(weights=None)
    network.save_weights(path)
    return digest(network)

def save_grey(shape, units, last, path, *more):
    import keras
    keras.utils.set_random_seed(3)
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(units, activation=last)]
    if "lambda" in more:
        layers.append(keras.layers.Lambda(lambda x: x * 1))
    keras.Sequential(layers).save(path)

print("answers", json.dumps([globals()[name](*arguments) for name, *arguments in json.loads(sys.argv[1])]))
"""


class KerasProgram:
    """Programs with Keras, without a network and with an empty home; each is a process of its own."""

    def __init__(self, home: Path) -> None:
        self._environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
        # Nobody listens there: every download fails, on a machine with a network too.
        proxy = "http://127.0.0.1:9"
        self._environment |= {"HOME": str(home), "HTTPS_PROXY": proxy, "https_proxy": proxy}
        self._environment.pop("KERAS_HOME", None)

    def call(self, *calls: tuple[object, ...]) -> list[Any]:
        """What the program's functions return, called one after the other: (NAME, ARGUMENT...)."""
        done = keras_fork.run(["-c", _PROGRAM, json.dumps(calls)], env=self._environment)
        assert done.returncode == 0, done.stderr
        answers = done.stdout.splitlines()[-1]
        return list(json.loads(answers.removeprefix("answers ")))

    def build(self, name: str, weights: str, models: Path = ROOT / "models") -> dict[str, object]:
        """Load a model, and run it."""
        return dict(self.call(("build", str(models), name, weights))[0])

    def reference(self, name: str) -> dict[str, object]:
        """What the network of a bundled model gives, with random weights."""
        return dict(self.call(("reference", str(ROOT / "models"), name, "random"))[0])


@pytest.fixture
def program(tmp_path: Path) -> KerasProgram:
    (tmp_path / "home").mkdir()
    return KerasProgram(tmp_path / "home")


def test_without_a_network_the_download_fails_with_a_reason_and_three_ways_out(program: KerasProgram) -> None:
    error = program.build("resnet50", "imagenet")["error"]
    assert isinstance(error, str)
    assert error.startswith("resnet50: the ImageNet weights could not be downloaded (")
    assert "refused" in error
    for way_out in ("let this machine download them", "RESNET50_WEIGHTS=PATH", "RESNET50_WEIGHTS=random"):
        assert way_out in error


def test_random_weights_need_no_network_and_are_the_same_everywhere(
    program: KerasProgram, tmp_path: Path
) -> None:
    random = program.reference("resnet50")
    drawn_before = ("save_grey", (3,), 1, "sigmoid", str(tmp_path / "net.keras"))
    others = program.call(drawn_before, ("weights", str(ROOT / "models"), "resnet50", "random"))
    assert others[1] == random["digest"]
    assert random["shape"] == [1, 1000]
    assert random["sum"] == pytest.approx(1.0, abs=1e-3)


def test_densenet121_is_what_its_model_toml_says(program: KerasProgram) -> None:
    assert program.reference("densenet121")["shape"] == [1, 1000]
    assert "DENSENET121_WEIGHTS=random" in str(program.build("densenet121", "none.weights.h5")["error"])


def test_weights_of_the_user_s_own_are_loaded(program: KerasProgram, tmp_path: Path) -> None:
    models, path = tmp_path / "models", str(tmp_path / "mine.weights.h5")
    shutil.copytree(ROOT / "models" / "resnet50", models / "small")
    toml = (models / "small" / "model.toml").read_text("utf-8").replace('"caffe"', '"tf"')
    (models / "small" / "model.toml").write_text(toml.replace('"ResNet50"', '"MobileNet"'))
    saved, loaded = program.call(("save_weights", "MobileNet", path), ("weights", str(models), "small", path))
    assert loaded == saved


@pytest.mark.parametrize("content", [None, b"no weights at all"])
def test_weights_that_are_none_are_said_so(
    program: KerasProgram, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "mine.weights.h5"
    if content is not None:
        path.write_bytes(content)
    error = str(program.build("resnet50", str(path))["error"])
    assert str(path) in error
    assert "Three ways out" in error


def test_a_keras_file_that_is_none_is_said_so(program: KerasProgram, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir(parents=True)
    for name in ("model.toml", "labels.csv"):
        (folder / name).write_bytes((ROOT / "models" / "digits" / name).read_bytes())
    assert "no file 'digits.keras'" in str(program.build("digits", "", tmp_path)["error"])
    (folder / "digits.keras").write_bytes(b"PK no zip")
    error = str(program.build("digits", "", tmp_path)["error"])
    assert error == (
        "digits: Keras can't load digits.keras: a .keras file is a zip, but this is not: it was cut short, "
        "or it is a Git LFS pointer."
    )


def test_weights_without_a_network_are_said_so(program: KerasProgram, tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    (folder / "model.toml").write_text(_GREY_TOML.replace("net.keras", "net.h5"))
    (folder / "labels.txt").write_text("a\nb\nc\n")
    with h5py.File(folder / "net.h5", "w") as file:
        file.create_group("layers")
    assert program.build("grey", "", tmp_path)["error"] == (
        "grey: Keras can't load net.h5: it has weights without a network. Save both, with "
        'model.save("network.keras").'
    )
    (folder / "net.h5").rename(folder / "net.keras")
    (folder / "model.toml").write_text(_GREY_TOML)
    assert "but this is HDF5: name it .h5" in str(program.build("grey", "", tmp_path)["error"])


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


def _grey(
    program: KerasProgram,
    models: Path,
    shape: tuple[int, ...],
    units: int,
    last: str,
    labels: str,
    *more: str,
) -> dict[str, object]:
    """Build a Keras network of grey pictures."""
    folder = models / "grey"
    folder.mkdir()
    (folder / "model.toml").write_text(_GREY_TOML)
    (folder / "labels.txt").write_text(labels)
    saved = ("save_grey", shape, units, last, str(folder / "net.keras"), *more)
    return dict(program.call(saved, ("build", str(models), "grey", ""))[1])


def test_a_network_of_grey_pictures_may_leave_out_their_channel(
    program: KerasProgram, tmp_path: Path
) -> None:
    found = _grey(program, tmp_path, (28, 28), 3, "softmax", "a\nb\nc\n")
    assert found["shapes"] == [[1, 3], [3, 3]]


def test_one_number_for_two_labels_is_the_probability_of_the_second(
    program: KerasProgram, tmp_path: Path
) -> None:
    found = _grey(program, tmp_path, (28, 28, 1), 1, "sigmoid", "a\nb\n")
    assert found["shapes"] == [[1, 2], [3, 2]]
    assert found["sum"] == pytest.approx(1, abs=1e-6)


def test_a_network_of_rows_is_refused_with_the_layer_that_it_needs(
    program: KerasProgram, tmp_path: Path
) -> None:
    error = str(_grey(program, tmp_path, (784,), 3, "softmax", "a\nb\nc\n")["error"])
    assert "takes (784,), not pictures" in error
    assert "keras.Input((28, 28, 1)), keras.layers.Reshape((784,)), network])" in error


def test_a_file_with_code_of_its_own_is_refused_with_the_way_to_export_it(
    program: KerasProgram, tmp_path: Path
) -> None:
    error = str(_grey(program, tmp_path, (28, 28, 1), 3, "softmax", "a\nb\nc\n", "lambda")["error"])
    assert 'model.export("exported"), and serve that folder with kind = "saved_model"' in error
