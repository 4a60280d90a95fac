"""Where networks come from, with the real Keras: downloads that fail, weights of the user's own, files."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_PROCESS = """
import hashlib, json, sys, time
from pathlib import Path
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server import engines
from model_server.engines.check import drawn_pictures
from model_server.engines.choice import EngineChoice
import numpy as np

# The check of an engine runs the network on ten pictures, twice: two will do here.
ten = drawn_pictures.draw
drawn_pictures.draw = lambda spec: ten(spec)[:2]

def build(models, name, weights):
    spec = read_model(Path(models), name, weights=weights or None)
    began = time.monotonic()
    try:
        options = engines.EngineOptions(batch_size=2, cache=Path("none"))
        engine = engines.load(spec, EngineChoice("tensorflow", "fp32"), options)
    except ModelUnavailable as error:
        return {"error": error.message, "seconds": time.monotonic() - began}
    outputs = [engine.predict(np.full((n, *spec.input.shape), 9, np.uint8))[0].shape for n in (1, 2, 3)]
    first = engine.predict(np.full((1, *spec.input.shape), 9, np.uint8))[0][0]
    return {"shapes": outputs, "sum": float(first.sum())}

def digest(network):
    content = hashlib.sha256()
    for array in network.get_weights():
        content.update(array.tobytes())
    return content.hexdigest()

def weights(name, weights):
    from model_server.engines.keras import sources
    return digest(sources.build(read_model(Path("models"), name, weights=weights)))

def save_weights(path):
    import keras
    keras.utils.set_random_seed(7)
    network = keras.applications.ResNet50(weights=None)
    network.save_weights(path)
    return digest(network)

def save_grey(shape, units, last, path, *more):
    import keras
    keras.utils.set_random_seed(3)
    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(units, activation=last)]
    if "lambda" in more:
        layers.append(keras.layers.Lambda(lambda x: x * 1))
    keras.Sequential(layers).save(path)

for line in sys.stdin:
    function, *arguments = json.loads(line)
    print("answer", json.dumps(globals()[function](*arguments)), flush=True)
"""


Shape = tuple[int, ...]


class KerasProcess:
    """A process with Keras, without a network and with an empty home. TensorFlow takes it 10 s to load."""

    def __init__(self, home: Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
        # Nobody listens there: every download fails, on a machine with a network too.
        proxy = "http://127.0.0.1:9"
        environment |= {"HOME": str(home), "HTTPS_PROXY": proxy, "https_proxy": proxy}
        environment.pop("KERAS_HOME", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROCESS],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, function: str, *arguments: object) -> Any:  # noqa: ANN401 - JSON
        """What a function of the process returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, *arguments]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise AssertionError("the process has ended")

    def build(self, name: str, weights: str, models: Path = ROOT / "models") -> dict[str, object]:
        """Load a model, and run it."""
        return dict(self.call("build", str(models), name, weights))

    def weights(self, name: str, weights: str) -> str:
        """The digest of the weights that a bundled model gets; running it too takes three times as long."""
        return str(self.call("weights", name, weights))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KerasProcess]:
    """The process of most tests."""
    started = KerasProcess(tmp_path_factory.mktemp("home"))
    yield started
    started.close()


def test_without_a_network_the_download_fails_with_a_reason_and_three_ways_out(process: KerasProcess) -> None:
    error = process.build("resnet50", "imagenet")["error"]
    assert isinstance(error, str)
    assert error.startswith("resnet50: the ImageNet weights could not be downloaded (")
    assert "refused" in error
    for way_out in ("let this machine download them", "RESNET50_WEIGHTS=PATH", "RESNET50_WEIGHTS=random"):
        assert way_out in error


def test_random_weights_need_no_network_and_are_the_same_everywhere(process: KerasProcess) -> None:
    random = process.build("resnet50", "random")
    other = keras_fork.run(["-c", f'{_PROCESS}\nprint(weights("resnet50", "random"))'])
    assert other.returncode == 0, other.stderr
    assert other.stdout.splitlines()[-1] == process.weights("resnet50", "random")
    assert random["shapes"] == [[1, 1000], [2, 1000], [3, 1000]]
    assert random["sum"] == pytest.approx(1.0, abs=1e-3)


def test_densenet121_is_served_as_well(process: KerasProcess) -> None:
    assert process.build("densenet121", "random")["shapes"] == [[1, 1000], [2, 1000], [3, 1000]]
    assert "DENSENET121_WEIGHTS=random" in str(process.build("densenet121", "imagenet")["error"])


def test_weights_of_the_user_s_own_are_loaded(process: KerasProcess, tmp_path: Path) -> None:
    path = tmp_path / "mine.weights.h5"
    saved = process.call("save_weights", str(path))
    assert process.weights("resnet50", str(path)) == saved


@pytest.mark.parametrize("content", [None, b"no weights at all"])
def test_weights_that_are_none_are_said_so(
    process: KerasProcess, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "mine.weights.h5"
    if content is not None:
        path.write_bytes(content)
    error = str(process.build("resnet50", str(path))["error"])
    assert str(path) in error
    assert "Three ways out" in error


def test_a_keras_file_that_is_none_is_said_so(process: KerasProcess, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir(parents=True)
    for name in ("model.toml", "labels.csv"):
        (folder / name).write_bytes((ROOT / "models" / "digits" / name).read_bytes())
    assert "no file 'digits.keras'" in str(process.build("digits", "", tmp_path)["error"])
    (folder / "digits.keras").write_bytes(b"PK no zip")
    error = str(process.build("digits", "", tmp_path)["error"])
    assert "can't load digits.keras" in error
    assert "cut short, or it is a Git LFS pointer" in error


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
    process: KerasProcess,
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
    process.call("save_grey", shape, units, last, str(folder / "net.keras"), *more)
    return process.build("grey", "", models)


def test_a_network_of_grey_pictures_may_leave_out_their_channel(
    process: KerasProcess, tmp_path: Path
) -> None:
    found = _grey(process, tmp_path, (28, 28), 3, "softmax", "a\nb\nc\n")
    assert found["shapes"] == [[1, 3], [2, 3], [3, 3]]


def test_one_number_for_two_labels_is_the_probability_of_the_second(
    process: KerasProcess, tmp_path: Path
) -> None:
    found = _grey(process, tmp_path, (28, 28, 1), 1, "sigmoid", "a\nb\n")
    assert found["shapes"] == [[1, 2], [2, 2], [3, 2]]
    assert found["sum"] == pytest.approx(1, abs=1e-6)


def test_a_network_of_rows_is_refused_with_the_layer_that_it_needs(
    process: KerasProcess, tmp_path: Path
) -> None:
    error = str(_grey(process, tmp_path, (784,), 3, "softmax", "a\nb\nc\n")["error"])
    assert "takes (784,), not pictures" in error
    assert "keras.Input((28, 28, 1)), keras.layers.Reshape((784,)), network])" in error


def test_a_file_with_code_of_its_own_is_refused_with_the_way_to_export_it(
    process: KerasProcess, tmp_path: Path
) -> None:
    error = str(_grey(process, tmp_path, (28, 28, 1), 3, "softmax", "a\nb\nc\n", "lambda")["error"])
    assert 'model.export("exported"), and serve that folder with kind = "saved_model"' in error
