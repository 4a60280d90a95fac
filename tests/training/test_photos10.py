"""The training program of photos10 from end to end on a few drawn pictures, and that a killed run goes on.

TensorFlow is only ever loaded by processes of their own.
"""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support import ROOT, keras_fork
from tests.support.waiting import eventually
from tests.training.folders import COLOURS, picture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BUNDLED: Final = ROOT / "models" / "photos10" / "photos10.keras"

# Trains a network of the same layers, but narrow: the bundled one takes longer to save than all of this.
_TRAIN: Final = """
import sys
from training import photos10, small_network
small_network.WIDTHS = (24, 28, 32)
photos10.main(sys.argv[1:])
"""

# Saves the network as it begins: whether the test pictures are looked at does not depend on learning.
_UNTRAINED: Final = """
from training import photos10, small_network
photos10.train = lambda *_, **__: small_network.network()
"""

_DESCRIBE: Final = """
import json, sys, keras, numpy
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
shares = model.predict(numpy.zeros((3, 32, 32, 3), "float32"), verbose=0)
kinds = {type(layer) for layer in model.layers}
print(json.dumps({
    "compiled": model.compiled,
    "layers": sorted(kind.__module__.split(".")[0] + "." + kind.__name__ for kind in kinds),
    "input": [model.input_shape, model.inputs[0].dtype],
    "output": [model.output_shape, str(shares.dtype)],
    "sums": [float(shares.sum(axis=1).min()), float(shares.sum(axis=1).max())],
}))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten classes as CIFAR-10 has them, with a few small pictures each."""
    path = tmp_path_factory.mktemp("data") / "small.zip"
    colours = sorted(COLOURS)
    with zipfile.ZipFile(path, "w") as file:
        for label in range(10):
            for number in range(8):
                upload = picture(colours[label % 3], 100 * label + number, size=(32, 32))
                part = "test" if number < 2 else "train"
                file.writestr(f"{part}/class{label}/{number}.jpg", upload)
    return path


def _options(archive: Path, out: Path, epochs: int) -> list[str]:
    return [str(archive), "--out", str(out), "--checkpoint", str(out / "checkpoint"), "--epochs", str(epochs)]


def _epochs(kept: Path) -> int:
    """How many epochs a run has behind it; it may be writing that down just now."""
    try:
        return int(json.loads(kept.read_text())["epoch"])
    except (OSError, ValueError):
        return 0


def assert_is_as_serving_needs(path: Path) -> None:
    done = keras_fork.run(["-c", _DESCRIBE, str(path)])
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with zipfile.ZipFile(path) as file:  # half of the bytes of the weights are zeros
        assert path.stat().st_size < 0.6 * sum(entry.file_size for entry in file.infolist())
    assert not answer["compiled"]
    assert all(layer.startswith("keras.") for layer in answer["layers"])
    unwanted = ("Rescaling", ".Normalization", "Random", "Lambda", "Dropout")
    assert not any(word in layer for layer in answer["layers"] for word in unwanted)
    assert answer["input"] == [[None, 32, 32, 3], "float32"]
    assert answer["output"] == [[None, 10], "float32"]
    assert answer["sums"] == pytest.approx([1, 1], abs=1e-4)


def test_a_killed_run_goes_on_where_it_was(archive: Path, tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint" / "training_metadata.json"
    command = [sys.executable, "-c", _TRAIN, *_options(archive, tmp_path, 1000)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: _epochs(kept) >= 2, within_s=120)
            epochs = _epochs(kept)
        finally:
            running.kill()
    # One or two may have passed before it was dead, unless it was just writing that down.
    epochs = max(epochs, _epochs(kept)) + 4
    done = keras_fork.run(["-c", _TRAIN, *_options(archive, tmp_path, epochs)])
    assert done.returncode == 0, done.stderr
    assert "Epoch 1/" not in done.stdout
    assert f"Epoch {epochs}/{epochs}" in done.stdout
    assert done.stdout.index("right of the pictures held out: ") < done.stdout.index("test accuracy: ")
    assert "right of their photographs: " in done.stdout
    assert f"saved {tmp_path / 'photos10.keras'}" in done.stdout
    assert not (tmp_path / "checkpoint").exists()
    assert_is_as_serving_needs(tmp_path / "photos10.keras")


def test_the_test_pictures_are_not_looked_at_unless_wanted(archive: Path, tmp_path: Path) -> None:
    done = keras_fork.run(["-c", _UNTRAINED + _TRAIN, *_options(archive, tmp_path, 1), "--no-judge"])
    assert done.returncode == 0, done.stderr
    assert "right of the pictures held out: " in done.stdout
    assert "test accuracy" not in done.stdout


def test_the_bundled_network_is_as_serving_needs() -> None:
    assert BUNDLED.stat().st_size < 3_000_000
    assert_is_as_serving_needs(BUNDLED)


def test_data_that_is_none_ends_with_a_sentence(tmp_path: Path) -> None:
    done = keras_fork.run(["-m", "training", "photos10", *_options(tmp_path / "none.zip", tmp_path, 1)])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("none.zip is not a folder.")
