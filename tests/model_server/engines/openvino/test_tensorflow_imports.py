"""What TensorFlow exports, served without TensorFlow: the same answers as by TensorFlow itself, unserved."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.commands import new
from model_server.engines import loading
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import imported_graph, quantised, runtime
from tests.model_server.engines.openvino.processors import run_on
from tests.support import keras_fork

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("converts_in_forks"),
]

SOURCES = {
    "keras": 'kind = "keras_file"\nfile = "net.keras"',
    "logits": 'kind = "keras_file"\nfile = "logits.keras"',
    "sigmoid": 'kind = "keras_file"\nfile = "sigmoid.keras"',
    "small": 'kind = "keras_file"\nfile = "small.keras"',
    "saved_model": 'kind = "saved_model"\nfolder = "saved"',
    "frozen_graph": 'kind = "frozen_graph"\nfile = "net.pb"',
    "decoding": 'kind = "frozen_graph"\nfile = "decoding.pb"',
    "pixels": 'kind = "frozen_graph"\nfile = "pixels.pb"',
    "tflite": 'kind = "tflite"\nfile = "net.tflite"',
    "int8": 'kind = "tflite"\nfile = "int8.tflite"',
    "dim": 'kind = "tflite"\nfile = "dim.tflite"',
    "uint8": 'kind = "tflite"\nfile = "uint8.tflite"',
    "bytes": 'kind = "tflite"\nfile = "bytes.tflite"',
}
TOML = """task = "classification"
labels = "labels.txt"
top = 3
[source]
{source}
[input]
width = 18
height = 14
channels = 3
fit = "stretch"
normalise = {{ mean = [120, 110, 100], std = [60, 50, 40] }}
"""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    done = keras_fork.run(["-m", "tests.model_server.engines.tensorflow_exports", str(folder)])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _spec(exports: Path, models: Path, kind: str) -> ModelSpec:
    folder = models / kind
    shutil.copytree(exports, folder, ignore=shutil.ignore_patterns("*.npy"))
    (folder / "model.toml").write_text(TOML.format(source=SOURCES[kind]))
    (folder / "labels.txt").write_text("\n".join("abcdefg"))
    return read_model(models, kind)


@pytest.mark.parametrize("kind", ["keras", "saved_model", "frozen_graph", "tflite"])
def test_the_engine_gives_what_tensorflow_gives(exports: Path, tmp_path: Path, kind: str) -> None:
    spec = _spec(exports, tmp_path, kind)
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))
    found = engine.predict(np.load(exports / "pictures.npy"))[0]
    right = np.load(exports / f"{kind}.npy")
    assert np.ptp(right, axis=0).min() > 0.05  # the network tells the pictures apart
    np.testing.assert_allclose(found, right, atol=1e-5)


SERVE = """
import sys
from pathlib import Path
import numpy as np
from model_server.engines import loading
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.choice import choose_for
from model_server.engines.openvino import conversion, importing, runtime

conversion._run_child = lambda spec, width, folder: importing.write(
    spec, folder, half=width == "half", in_int8=width == "int8"
)
models, pictures, *kinds = sys.argv[1:]
for kind in kinds:
    spec = read_model(Path(models), kind)
    chosen = choose_for(spec, "auto", "auto", keras_backend="tensorflow")
    engine = loading.load(spec, chosen, EngineOptions(32, Path(models) / "cache"))
    np.save(Path(models, kind), engine.predict(np.load(pictures))[0])
    print(engine.name, engine.precision, runtime.saturates_int8())
"""
KINDS = ("int8", "uint8")


@pytest.fixture(scope="module", params=["", "AVX2", "AVX512_CORE"])
def quantised_on(
    request: pytest.FixtureRequest, exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, str]]:
    """A kind of processor, a folder with each quantised file's answers by it, and what served the file."""
    models = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        assert quantised.is_quantised(_spec(exports, models, kind))
    said = run_on(request.param, "-c", SERVE, str(models), str(exports / "pictures.npy"), *KINDS)
    return request.param, models, dict(zip(KINDS, said.splitlines(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_file_gives_what_tensorflow_lite_gives_on_each_kind_of_processor(
    exports: Path, quantised_on: tuple[str, Path, dict[str, str]], kind: str
) -> None:
    most, models, said = quantised_on
    engine, precision, saturates = said[kind].split()
    assert (engine, precision) == ("openvino", "fp32" if saturates == "True" else "int8")
    assert saturates == "True" or not most
    found, right = np.load(models / f"{kind}.npy"), np.load(exports / f"{kind}.npy")
    # The integers of a layer may be rounded otherwise: steps of 1/256 of a probability, and what follows.
    assert np.abs(found - right).max() < 0.06
    assert (found.argmax(axis=1) == right.argmax(axis=1)).mean() >= 0.9


def test_a_file_of_bytes_gets_them_as_they_are_or_a_warning(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes stand for 0 to 0.9: TensorFlow Lite's interpreter takes a pixel of 255 for 0.9."""
    spec = _normalised_spec(exports, tmp_path, "bytes", '"none"')
    assert imported_graph.read(spec).doubt == ""
    chosen = choose_for(spec, "auto", "auto", keras_backend="tensorflow")
    engine = loading.load(spec, chosen, EngineOptions(32, tmp_path / "cache"))
    found = engine.predict(np.load(exports / "pictures.npy"))[0]
    assert np.abs(found - np.load(exports / "bytes.npy")).max() < 0.06
    toml = spec.folder / "model.toml"
    toml.write_text(toml.read_text().replace('"none"', '"unit"'))
    doubt = imported_graph.read(read_model(tmp_path, "bytes")).doubt
    assert "stand for numbers from 0 to 0.9; normalise in model.toml gives 0 to 1" in doubt
    assert "changed by up to 25 of 255" in doubt
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "made"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    assert new.main([str(exports / "bytes.tflite")]) == 0
    assert 'normalise = "none"' in capsys.readouterr().out


def test_a_file_calibrated_with_dim_pictures_clips_and_is_warned_of(
    exports: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = _normalised_spec(exports, tmp_path, "dim", '"unit"')
    chosen = choose_for(spec, "auto", "auto", keras_backend="tensorflow")
    engine = loading.load(spec, chosen, EngineOptions(32, tmp_path / "cache"))
    found = engine.predict(np.load(exports / "pictures.npy"))[0]
    assert np.abs(found - np.load(exports / "dim.npy")).max() < 0.06
    told = capfd.readouterr().err
    assert told.count("dim: the network takes numbers from 0 to 0.75, and normalise") == 1
    assert "gives 0 to 1." in told


def test_int8_by_name_is_refused_where_a_quantised_file_would_overflow(
    exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "saturates_int8", lambda: True)
    spec = _spec(exports, tmp_path, "uint8")
    with pytest.raises(ModelUnavailable, match=r"no VNNI. PRECISION=auto runs uint8.tflite in fp32"):
        loading.load(spec, EngineChoice("openvino", "int8"), EngineOptions(32, tmp_path / "cache"))


def test_only_what_is_quantised_is_taken_for_quantised(exports: Path, tmp_path: Path) -> None:
    kinds = ("saved_model", "frozen_graph", "tflite")
    assert not any(quantised.is_quantised(_spec(exports, tmp_path, kind)) for kind in kinds)


def _normalised_spec(exports: Path, models: Path, kind: str, normalise: str) -> ModelSpec:
    path = _spec(exports, models, kind).folder / "model.toml"
    path.write_text(re.sub("normalise = .*", f"normalise = {normalise}", path.read_text()))
    return read_model(models, kind)


def _activated_spec(exports: Path, models: Path, kind: str, activation: str) -> ModelSpec:
    path = _spec(exports, models, kind).folder / "model.toml"
    path.write_text(path.read_text() + f'order = "bgr"\n[output]\nactivation = "{activation}"\n')
    return read_model(models, kind)


@pytest.mark.parametrize("kind", ["logits", "small"])
def test_keras_networks_take_the_same_normalisation_order_and_activation(
    exports: Path, tmp_path: Path, kind: str
) -> None:
    logits = np.load(exports / f"{kind}.npy")
    assert bool(0 < logits.min() < logits.max() < 1) is (kind == "small")
    spec = _activated_spec(exports, tmp_path, kind, "sigmoid")
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))
    pictures = np.load(exports / "pictures.npy")
    found = engine.predict(np.ascontiguousarray(pictures[..., ::-1]))[0]
    right = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "activation", "words"),
    [
        ("keras", "softmax", r'gives probabilities already.*"softmax".*Remove that line from \[output\]'),
        ("uint8", "softmax", r'gives probabilities already.*"softmax".*Remove that line from \[output\]'),
        ("sigmoid", "sigmoid", r'gives probabilities already.*"sigmoid".*Remove that line from \[output\]'),
        ("logits", "none", r'not probabilities.*\[output\] activation = "softmax"'),
    ],
)
def test_an_activation_too_many_or_too_few_is_refused(
    exports: Path, tmp_path: Path, kind: str, activation: str, words: str
) -> None:
    spec = _activated_spec(exports, tmp_path, kind, activation)
    with pytest.raises(ModelUnavailable, match=words):
        loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("kind", "normalise", "words"),
    [
        ("uint8", '"unit"', r'bytes, 0 to 255, and norm.*normalise = "none" in \[input\].*mean and std'),
        ("uint8", "{ mean = [0, 0, 0], std = [1, 1, 1] }", "bytes, 0 to 255, and normalises"),
        (
            "int8",
            '"none"',
            "takes numbers from -2.5 to 3.875, but normalise .* gives 0 to 255",
        ),
        ("int8", '"unit"', "takes numbers from -2.5 to 3.875, but normalise .* gives 0 to 1"),
    ],
)
def test_a_normalisation_that_a_quantised_file_was_not_made_for_is_refused(
    exports: Path, tmp_path: Path, kind: str, normalise: str, words: str
) -> None:
    spec = _normalised_spec(exports, tmp_path, kind, normalise)
    with pytest.raises(ModelUnavailable, match=words):
        imported_graph.read(spec)


def test_a_graph_that_decodes_pictures_is_refused_with_an_export_that_is_served(
    exports: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"decodes them itself \(DecodeJpeg\). Export it from the pixels"
    ):
        imported_graph.read(_normalised_spec(exports, tmp_path, "decoding", '"none"'))
    spec = _normalised_spec(exports, tmp_path, "pixels", '"none"')
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), EngineOptions(32, tmp_path / "cache"))
    found = engine.predict(np.load(exports / "pictures.npy"))[0]
    assert np.ptp(found, axis=0).max() > 0.05
