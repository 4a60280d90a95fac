"""Files of Keras 2: the same numbers as by Keras 2 itself, or a refusal whose advice works."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.catalogue.model_spec import read_model
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.engines.keras import keras2_files
from settings import PROJECT
from tests.model_server.engines.keras.keras2_toml import TOML
from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    done = keras_fork.run(["-m", "tests.model_server.engines.keras.keras2_exports", str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _answer(exports: Path, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads((exports / name / "answer.json").read_text())
    return answer


@pytest.mark.parametrize(
    "name",
    [
        *("teachable-h5", "teachable-keras", "called-h5", "called-keras", "caffe-h5"),
        *("branches-h5", "branches-keras", "sequential-h5", "sequential-keras"),
        *("called-windows", "called-2-12"),
    ],
)
def test_a_file_of_keras_2_gives_what_keras_2_gives(exports: Path, name: str) -> None:
    assert _answer(exports, name) == {"unchanged": True}
    right = np.load(exports / f"{name.partition('-')[0]}.npy")
    found = np.load(exports / name / "outputs.npy")
    assert np.ptp(right, axis=0).max() > 0.02  # the network tells the pictures apart
    np.testing.assert_allclose(found, right, atol=3e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lambda_layer-h5", "it has a Lambda layer. Code in a file is not run here."),
        ("lambda_layer-keras", "it has a Lambda layer. Code in a file is not run here."),
        ("custom-h5", "Keras has no layer 'Dense'. Code in a file is not run here."),
        ("custom-keras", "Keras has no layer 'Dense'. Code in a file is not run here."),
        ("hard-h5", "which Keras 2 wrote: its activation hard_sigmoid is another function in Keras 3."),
        ("function-h5", "which Keras 2 wrote: it calls TensorFlow's function tf.math.l2_normalize."),
    ],
)
def test_what_keras_3_can_not_compute_is_refused_in_one_line_with_a_way_out(
    exports: Path, name: str, words: str
) -> None:
    answer = _answer(exports, name)
    assert answer["unchanged"]
    assert words in answer["error"]
    assert 'model.export("exported")' in answer["error"]
    assert "config" not in answer["error"]
    assert len(answer["error"]) < 350


@pytest.mark.usefixtures("converts_in_forks")
@pytest.mark.parametrize("folder", ["exported", "saved"])
@pytest.mark.parametrize("name", ["function", "custom"])
def test_the_export_that_a_refusal_advises_is_served(
    exports: Path, tmp_path: Path, name: str, folder: str
) -> None:
    model = exports / f"{name}-saved"
    (model / "model.toml").write_text(TOML.format(source=f'kind = "saved_model"\nfolder = "{folder}"'))
    spec = read_model(exports, model.name)
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(8, tmp_path / "cache"))
    found = engine.predict(np.load(exports / "pictures.npy"))[0]
    np.testing.assert_allclose(found, np.load(exports / f"{name}.npy"), atol=1e-5)


def test_only_files_of_keras_2_are_rewritten(tmp_path: Path) -> None:
    assert not keras2_files.is_keras2(PROJECT / "models" / "digits" / "digits.keras")
    assert not keras2_files.is_keras2(tmp_path / "gone.h5")
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\ncut short")
    assert not keras2_files.is_keras2(tmp_path / "net.h5")
