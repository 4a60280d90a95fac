"""From Keras to OpenVINO with the real ones, on the bundled digits: the first start and the second."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines.check import drawn_pictures
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion
from model_server.engines.openvino.engine import OpenVINOEngine
from model_server.engines.openvino.store import Store
from settings import PROJECT
from tests.support import keras_fork
from tests.support.real_data import MNIST, needs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DIGITS = read_model(PROJECT / "models", "digits")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks of both widths: the first by a new process, the second in a fork of one with TensorFlow."""
    folder = tmp_path_factory.mktemp("cache")
    conversion.converted(DIGITS, "full", Store(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "subprocess", keras_fork.CONVERSIONS)
        conversion.converted(DIGITS, "half", Store(folder))
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_drawn_digits_are_read_right(cache: Path, precision: str) -> None:
    try:
        engine = OpenVINOEngine(DIGITS, precision, EngineOptions(32, cache))
    except ModelUnavailable as error:
        pytest.skip(error.message)  # a CPU without bf16
    (found,) = engine.predict(drawn_pictures.draw(DIGITS.input))
    assert found.argmax(axis=1).tolist() == list(range(10))


def test_the_second_start_loads_neither_tensorflow_nor_keras(cache: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.loading import load
from model_server.engines.choice import EngineChoice
spec = read_model(Path("models"), "digits")
load(spec, EngineChoice("openvino", "fp32"), EngineOptions(4, Path(sys.argv[1])))
print(json.dumps([name for name in ("tensorflow", "keras", "h5py", "jax") if name in sys.modules]))
"""
    command = [sys.executable, "-c", code, str(cache)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@needs(MNIST)
def test_mnist_is_read_as_well_as_by_keras(cache: Path) -> None:
    with np.load(MNIST, allow_pickle=False) as arrays:
        shown, labels = arrays["x_test"][:2000, :, :, None], arrays["y_test"][:2000]
    engine = OpenVINOEngine(DIGITS, "fp32", EngineOptions(32, cache))
    (found,) = engine.predict(shown)
    assert (found.argmax(axis=1) == labels).mean() > 0.99


@pytest.mark.usefixtures("converts_in_forks")
def test_a_network_that_can_t_be_had_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for name in ("model.toml", "labels.csv"):
        (folder / name).write_bytes((DIGITS.folder / name).read_bytes())
    with pytest.raises(ModelUnavailable, match=r"no file 'digits\.keras'"):
        conversion.converted(read_model(tmp_path, "digits"), "full", Store(tmp_path / "cache"))
    (folder / "digits.keras").write_bytes((DIGITS.folder / "digits.keras").read_bytes())
    (folder / "labels.csv").write_text("index,class_id,label\n0,0,zero\n1,1,one\n2,2,two\n")
    with pytest.raises(ModelUnavailable, match=r"output for a picture is \(10,\), but there are 3 labels"):
        conversion.converted(read_model(tmp_path, "digits"), "full", Store(tmp_path / "cache"))
