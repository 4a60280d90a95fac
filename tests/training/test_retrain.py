"""Retraining from end to end, as a user runs it: labelled folders in, a served model out.

The base is a small network of the test's own, so that nothing is downloaded; TensorFlow is only ever loaded
by processes of their own.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from model_server.catalogue.model_spec import read_model
from tests.support import ROOT, conversions, http, keras_fork
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tests.training.folders import COLOURS, fill, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A network that names shades of grey and colour badly, for it was never trained: a base all the same. What it
# sees of a picture is so much, and so loud, that a head learns the colours in a hundred steps.
_BASE: Final = """
import sys, keras
keras.utils.set_random_seed(1)
layers = keras.layers
model = keras.Sequential([
    keras.Input((16, 16, 3)),
    layers.Conv2D(64, 3, activation="relu", kernel_initializer=keras.initializers.VarianceScaling(25)),
    layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"),
])
model.save(sys.argv[1])
"""

# The same, blind: whatever it is shown, it sees the same.
_BLIND: Final = """
import sys, keras, numpy
network = keras.saving.load_model(sys.argv[1])
network.layers[0].set_weights([numpy.zeros_like(each) for each in network.layers[0].get_weights()])
network.save(sys.argv[2])
"""

# Retrains with a network of a few layers in MobileNet's place: what that costs is mostly the building of its
# graph. Its normalisation layers are as slow as MobileNetV2's, and it answers by chance until they have
# gathered their statistics: what they normalise is far from what they expect.
_RETRAIN_SMALL: Final = """
import sys, keras
from training import retrain

layers = keras.layers

def small(*, weights, include_top, pooling, input_shape):
    assert (weights, include_top, pooling) == (None, False, "avg")
    image = hidden = keras.Input(input_shape)
    quiet = keras.initializers.VarianceScaling(0.01)
    for filters in (16, 16, 32):
        hidden = layers.Conv2D(filters, 3, strides=2, use_bias=False, kernel_initializer=quiet)(hidden)
        hidden = layers.ReLU()(layers.BatchNormalization(momentum=0.999)(hidden))
    return keras.Model(image, layers.GlobalAveragePooling2D()(hidden))

small.__module__ = keras.applications.MobileNet.__module__
keras.applications.MobileNet = small
sys.exit(retrain.main(sys.argv[1:]))
"""

# Prints the largest difference between a .keras and the .pb made of it, on random pictures.
_COMPARE: Final = """
import sys, keras, numpy as np, tensorflow as tf
network = keras.saving.load_model(sys.argv[1])
graph = tf.compat.v1.GraphDef.FromString(open(sys.argv[2], "rb").read())
assert not any(node.op == "ReadVariableOp" for node in graph.node)
run = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
run = run.prune("input:0", "final_result:0")
pictures = np.random.default_rng(0).normal(size=(5, *network.input_shape[1:])).astype("float32")
print(abs(run(tf.constant(pictures)).numpy() - network(pictures).numpy()).max())
"""


def _python(*arguments: str, check: bool = True, anew: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Python, with Keras loaded already unless it has to start `anew`."""
    # Nobody listens there: every download fails, on a machine with a network too.
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment["HOME"] = environment["KERAS_HOME"] = "/nonexistent"
    if anew:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    else:
        done = keras_fork.run(arguments, env=environment)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def _retrain(
    folder: Path, models: Path, name: str, *options: str, check: bool = True, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    command = ("-m", "training.retrain", str(folder), "--models", str(models), "--name", name, *options)
    return _python(*command, check=check, anew=anew)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "small.keras"
    _python("-c", _BASE, str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled folders, with a broken picture and what is none."""
    folder = fill(tmp_path_factory.mktemp("pictures"), each=40)
    (folder / "sea" / "broken.jpg").write_bytes(picture("sea", 99)[:300])
    (folder / "wine" / "list.txt").write_text("red, white")
    return folder


@pytest.fixture(scope="module")
def made(
    base: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of models with one retrained, `places`, and what was printed."""
    models = tmp_path_factory.mktemp("models")
    options = (
        "--weights",
        str(base),
        "--normalise",
        "tf",
        "--epochs",
        "10",
        "--batch",
        "8",
        "--frozen-graph",
    )
    return models, _retrain(folder, models, "places", *options)


def test_it_says_what_it_did(made: tuple[Path, subprocess.CompletedProcess[str]], folder: Path) -> None:
    models, done = made
    assert f"left out: {folder / 'sea' / 'broken.jpg'}: The picture is broken or cut short" in done.stdout
    assert f"left out: {folder / 'wine' / 'list.txt'}: The upload is not a picture" in done.stdout
    assert "84 pictures to learn from, 12 that decide when to stop, 24 held out" in done.stdout
    assert "val_accuracy" in done.stdout  # Keras' own bar
    assert "held-out accuracy: 100.00%" in done.stdout
    assert f"Written to {models / 'places'}. Serve it with MODELS=places." in done.stdout
    report = json.loads((models / "places" / "report.json").read_text("utf-8"))
    assert report["held_out_accuracy"] == 1.0
    assert {Path(name).name for name in report["left_out"]} == {"broken.jpg", "list.txt"}
    with Image.open(models / "places" / "confusion.png") as image:
        assert image.format == "PNG"


def test_the_folder_is_a_model_of_the_catalogue(
    made: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    spec = read_model(made[0], "places")
    assert [label.label for label in spec.labels] == sorted(COLOURS)
    assert (spec.input.shape, spec.input.fit, spec.normalise) == ((16, 16, 3), "crop", "tf")


def test_the_frozen_graph_computes_what_the_keras_network_does(
    made: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = made[0] / "places"
    done = _python("-c", _COMPARE, str(folder / "places.keras"), str(folder / "places.pb"))
    assert float(done.stdout.splitlines()[-1]) < 1e-5
    assert (folder / "labels.txt").read_text() == "grass\nsea\nwine\n"


def test_it_is_served_and_names_pictures_that_it_never_saw(
    made: tuple[Path, subprocess.CompletedProcess[str]], own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url, "places")
    stack.environment |= {"MODELS_DIR": str(made[0])}
    stack.environment |= conversions.convert(made[0], "places", tmp_path / "engines", precision="fp32")
    try:
        stack.start_web()
        stack.start("model_server", log="model_server")
        eventually(lambda: stack.answers("/readyz?model=places"), within_s=90)
        for name in COLOURS:
            files = {"image": ("a.jpg", picture(name, 1000, size=(640, 480)))}
            answer = http.post(f"{stack.url}/predict", files=files, timeout=30).json()
            assert answer["predictions"][0]["label"] == name, answer
    finally:
        stack.stop()


def _weights(models: Path, name: str) -> bytes:
    return (models / name / f"{name}.pb").read_bytes()


def test_the_same_seed_gives_the_same_network_and_stderr_is_left_to_what_matters(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    options = ("--weights", str(base), "--normalise", "tf", "--epochs", "1", "--fine-tune", "1")
    # The second in a process of its own: its sets have another order.
    for name, seed, anew in (("a", "5", False), ("b", "5", True), ("c", "6", False)):
        done = _retrain(folder, tmp_path, name, *options, "--seed", seed, "--frozen-graph", anew=anew)
        assert "The whole network is trained." in done.stdout
        assert done.stderr == "" or not anew
    assert _weights(tmp_path, "a") == _weights(tmp_path, "b")
    assert _weights(tmp_path, "a") != _weights(tmp_path, "c")


def test_what_was_retrained_can_be_retrained_and_replaced(
    made: tuple[Path, subprocess.CompletedProcess[str]], folder: Path, tmp_path: Path
) -> None:
    network = str(made[0] / "places" / "places.keras")
    shutil.copytree(made[0] / "places", tmp_path / "again")
    before = read_model(tmp_path, "again").version
    refused = _retrain(folder, tmp_path, "again", "--weights", network, check=False)
    assert refused.returncode == 2
    assert "exists already: --replace" in refused.stderr
    assert read_model(tmp_path, "again").version == before
    _retrain(folder, tmp_path, "again", "--weights", network, "--epochs", "3", "--replace")
    assert read_model(tmp_path, "again").version != before
    assert read_model(tmp_path, "again").normalise == "tf"  # from the model.toml beside the network


def test_from_scratch_it_learns_too(folder: Path, tmp_path: Path) -> None:
    options = ("--weights", "none", "--base", "MobileNet", "--size", "32", "--epochs", "8", "--batch", "8")
    _python("-c", _RETRAIN_SMALL, str(folder), "--models", str(tmp_path), "--name", "scratch", *options)
    report = json.loads((tmp_path / "scratch" / "report.json").read_text("utf-8"))
    assert report["held_out_accuracy"] >= 0.8
    assert read_model(tmp_path, "scratch").normalise == "tf"


def test_a_network_of_keras_applications_is_trained(folder: Path, tmp_path: Path) -> None:
    """Whole and once: that it learns takes many more steps, which the small one above takes for it."""
    options = ("--weights", "none", "--base", "MobileNet", "--size", "32", "--epochs", "1", "--batch", "16")
    done = _retrain(folder, tmp_path, "real", *options)
    assert "The whole network is trained from scratch." in done.stdout
    spec = read_model(tmp_path, "real")
    assert (spec.normalise, spec.input.width) == ("tf", 32)
    assert json.loads((tmp_path / "real" / "report.json").read_text("utf-8"))["held_out_accuracy"] >= 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--base", "MobileNetV9"), "keras.applications has no network 'MobileNetV9'; it has "),
        (("--weights", "{}/broken.keras", "--normalise", "tf"), "/broken.keras: "),
        (("--weights", "{}/broken.h5"), "does not give the weights of MobileNetV2 without its top"),
        (("--weights", "none", "--size", "8"), "MobileNetV2 can't be built for 8 x 8"),
        (("--weights", "none", "--normalise", "caffe"), "MobileNetV2 needs pictures normalised as 'tf'"),
    ],
)
def test_what_can_t_be_done_is_said_and_changes_nothing(
    options: tuple[str, ...], reason: str, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for suffix in ("keras", "h5"):
        (broken / f"broken.{suffix}").write_text("no network")
    options = tuple(option.format(broken) for option in options)
    done = _retrain(folder, tmp_path / "models", "no", *options, check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


def test_pictures_that_are_all_the_same_are_refused_before_they_are_decoded(
    base: Path, tmp_path: Path
) -> None:
    folder = fill(tmp_path / "pictures", each=8)
    for number in range(1, 8):
        (folder / "sea" / f"{number}.jpg").write_bytes((folder / "sea" / "0.jpg").read_bytes())
    options = ("--weights", str(base), "--normalise", "tf")
    done = _retrain(folder, tmp_path / "models", "no", *options, check=False)
    assert done.returncode == 2
    assert "sea has 1 different files; a class needs at least 5" in done.stderr


def test_a_network_that_learns_nothing_is_warned_of(base: Path, folder: Path, tmp_path: Path) -> None:
    _python("-c", _BLIND, str(base), str(tmp_path / "blind.keras"))
    options = ("--weights", str(tmp_path / "blind.keras"), "--normalise", "tf", "--epochs", "2")
    done = _retrain(folder, tmp_path, "blind", *options)
    assert "Warning: held-out accuracy of 33.33% is no better than guessing" in done.stdout


def test_without_a_network_the_weights_are_missed_at_once_with_the_ways_out(
    folder: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    done = _retrain(folder, tmp_path, "no", check=False)
    assert done.returncode == 2
    assert "the ImageNet weights of MobileNetV2 could not be downloaded (" in done.stderr
    for way_out in ("let this machine download them", "--weights PATH", "--weights none"):
        assert way_out in done.stderr
    assert time.monotonic() - began < 60
    assert list(tmp_path.iterdir()) == []


def test_a_keras_file_alone_must_have_its_normalisation_named(
    base: Path, folder: Path, tmp_path: Path
) -> None:
    done = _retrain(folder, tmp_path, "no", "--weights", str(base), check=False)
    assert done.returncode == 2
    assert "set --normalise" in done.stderr
