"""A network between preprocess and postprocess of its hooks.py: alone and in a batch."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from broker.messages import Prediction, Timings
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines import loading
from model_server.engines.check import drawn_pictures
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.engines.hooked import HookedEngine
from model_server.engines.openvino import conversion, importing
from model_server.engines.openvino.engine import OpenVINOEngine
from model_server.hooks.own_code import FAILED, HookFailed
from model_server.serving import batching, results
from model_server.serving.batching import BatchEntry
from model_server.tasks.task import ReadOptions
from pictures import fixed_point
from tests.model_server.engines import onnx_file
from tests.support import ROOT, fakes

pytestmark = pytest.mark.slow  # together they wait for seconds

WEIGHTS = np.random.default_rng(5).normal(0, 1, (6, 3)).astype(np.float32)

TOML = """task = "raw"
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 8
height = 8
channels = 3
fit = "stretch"
normalise = "none"
[hooks]
timeout_s = 0.5
"""

PREPROCESS = """
import numpy as np

def preprocess(image):
    if image.max() == 13:
        raise ValueError("bad luck")
    if image.max() == 14:
        return np.zeros(5)
    if image.max() == 15:
        return np.zeros(6, np.int32)
    if image.max() == 16:
        while True: pass
    return np.concatenate([image.mean(axis=(0, 1)), image.std(axis=(0, 1))]) / 255
"""

POSTPROCESS = """
def postprocess(outputs, context):
    return RETURNS
"""


def _onnx() -> bytes:
    """Six numbers to three: no picture at all."""
    nodes = [onnx_file.node("MatMul", ["features", "weights"], "scores")]
    return onnx_file.model(
        nodes,
        [onnx_file.value("features", ("n", 6))],
        [onnx_file.value("scores", ("n", 3))],
        [onnx_file.constant("weights", WEIGHTS)],
    )


def _right(pictures: NDArray[Any]) -> NDArray[Any]:
    means, deviations = pictures.mean(axis=(1, 2)), pictures.std(axis=(1, 2))
    return np.concatenate([means, deviations], axis=1) / 255 @ WEIGHTS


Make = Callable[..., tuple[ModelSpec, HookedEngine]]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes an engine from a hooks.py; what the conversion's process would do is done in this one."""

    def in_this_process(spec: ModelSpec, width: str, into: Path) -> None:
        prepared = conversion._prepared(into / "prepared.npy")
        importing.write(spec, into, half=width == "half", prepared=prepared)

    monkeypatch.setattr(conversion, "_run_child", in_this_process)
    made: list[HookedEngine] = []

    def load(code: str, toml: str = TOML) -> tuple[ModelSpec, HookedEngine]:
        folder = tmp_path / "net"
        folder.mkdir(exist_ok=True)
        (folder / "net.onnx").write_bytes(_onnx())
        (folder / "model.toml").write_text(toml)
        (folder / "hooks.py").write_text(code)
        spec = read_model(tmp_path, "net")
        options = EngineOptions(4, tmp_path / "cache")
        engine = loading.load(spec, EngineChoice("openvino", "fp32"), options)
        assert isinstance(engine, HookedEngine)
        made.append(engine)
        return spec, engine

    yield load
    for engine in made:
        engine.close()


def _entry(value: int) -> BatchEntry:
    return BatchEntry("id", 0, fakes.job(value=value, shape=(8, 8, 3)))


def _completed(spec: ModelSpec, engine: HookedEngine, entry: BatchEntry) -> Any:  # noqa: ANN401
    model = results.ServedModel(spec, "v", names=engine.outputs.served, read=engine.read)
    done = results.completed(entry, model, claimed_at=0, timings=Timings())
    assert done.result is not None
    return done.result


def test_the_network_takes_what_preprocess_makes(make: Make) -> None:
    _, engine = make(PREPROCESS)
    pictures = np.random.default_rng(1).integers(20, 256, (5, 8, 8, 3), dtype=np.uint8)
    prepared = np.stack([engine.prepare(picture) for picture in pictures])
    assert prepared.dtype == np.float32  # in place of NumPy's float64
    np.testing.assert_allclose(engine.predict(prepared)[0], _right(pictures), rtol=1e-4, atol=1e-5)
    assert engine.outputs.served == ("scores",)


def test_a_picture_on_which_preprocess_fails_costs_itself(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    spec, engine = make(PREPROCESS)
    entries = [_entry(value) for value in (100, 13, 14, 15, 16, 200)]
    batching.prepare(entries, engine.prepare)
    assert batching.run(entries, engine.predict) == 2
    messages = [None if entry.error is None else entry.error.message for entry in entries]
    assert messages == [None, FAILED, FAILED, FAILED, FAILED, None]
    result = _completed(spec, engine, entries[5])
    right = _right(np.full((1, 8, 8, 3), 200, np.uint8))[0]
    np.testing.assert_allclose(result.outputs["scores"].data, right, rtol=1e-4)
    for words in ("bad luck", "(5,) of float32", "(6,) of int32", "took over 0.5 s"):
        assert words in caplog.text


BAD_RETURNS = {
    "7": "must return a dict, not int",
    '{"a": float("nan")}': "not JSON compliant",
    '{"a": {1, 2}}': "a set, which JSON has not",
    '{"a": "x" * 2_000_000}': "more than 1,000,000 bytes",
    '{"a": chr(0xd800)}': "surrogates not allowed",
    "outputs['nothing']": "KeyError: 'nothing'",
    "exit()": "SystemExit",
    '{"predictions": [{"label": "a"}]}': "missing required field",
    '{"predictions": [{"label": "a", "class_id": "1", "probability": 2}]}': "a probability is 2",
    '{"predictions": [{"label": "a", "class_id": "1", "probability": 1, "area": 7}]}': "an area is 7",
    # Eight letters that stand for ten thousand million pixels.
    '{"predictions": [{"label": "a", "class_id": "1", "probability": 1, '
    '"mask": {"size": [100000, 100000], "counts": "0PPigPZ9"}}]}': "a mask must be run lengths of at most",
    '{"predictions": [{"label": "a", "class_id": "1", "probability": 1, '
    '"mask": {"size": [5, 5], "counts": "0PPigPZ9"}}]}': "do not fill 5 x 5 pixels",
    '{"predictions": [{"label": "a", "class_id": "1", "probability": 1, "box": [10, 0, 11, 5]}]}': (
        "does not lie in the picture"
    ),
}


def test_what_postprocess_must_not_return_costs_its_picture(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    cases = f"eval({list(BAD_RETURNS)!r}[context['top']])"
    spec, engine = make(POSTPROCESS.replace("RETURNS", cases) + PREPROCESS)
    outputs = (np.zeros(3, np.float32),)
    for number, words in enumerate(BAD_RETURNS.values()):
        caplog.clear()
        with pytest.raises(HookFailed):
            engine.read(outputs, spec, ReadOptions((20, 10), number, ("scores",)))
        assert words in caplog.text
    entry = _entry(100)
    batching.prepare([entry], engine.prepare)
    batching.run([entry], engine.predict)
    result = _completed(spec, engine, entry)
    assert result.error is not None
    assert (result.error.code, result.error.message) == ("inference_failed", FAILED)


def test_postprocess_reads_the_outputs_in_place_of_the_task(make: Make) -> None:
    returns = (
        '{"best": outputs["scores"].argmax(), "scores": outputs["scores"], **context, "predictions": '
        '[{"label": "cat", "class_id": "c", "probability": 0.5, "box": [1, 2, 3, 4]}]}'
    )
    spec, engine = make(POSTPROCESS.replace("RETURNS", returns) + PREPROCESS)
    entry = _entry(100)
    batching.prepare([entry], engine.prepare)
    batching.run([entry], engine.predict)
    result = _completed(spec, engine, entry)
    right = _right(np.full((1, 8, 8, 3), 100, np.uint8))[0]
    np.testing.assert_allclose(result.result.pop("scores"), right, rtol=1e-4)
    assert result.result == {
        "best": int(right.argmax()),
        "model": "net",
        "task": "raw",
        "labels": [],
        "class_ids": [],
        "input_size": [8, 8],
        "original_size": [20, 10],
        "top": 2,
    }
    assert result.predictions == (Prediction("cat", "c", 0.5, (1, 2, 3, 4)),)
    assert result.outputs is None
    assert not result.is_empty


def test_another_preprocess_is_another_network_and_one_that_does_not_fit_is_refused(
    make: Make, tmp_path: Path
) -> None:
    make(PREPROCESS)
    (entry,) = (tmp_path / "cache").glob("net-*")
    make(f"{PREPROCESS}# the same arrays\n")
    assert [entry] == list((tmp_path / "cache").glob("net-*"))
    _, engine = make(PREPROCESS.replace("return np.concatenate", "return 2 * np.concatenate"))
    picture = np.full((8, 8, 3), 100, np.uint8)
    doubled = engine.predict(engine.prepare(picture)[None])[0]
    np.testing.assert_allclose(doubled, 2 * _right(picture[None]), rtol=1e-4)
    with pytest.raises(ModelUnavailable, match=r"returns \(8, 8, 3\) for a picture, but the network takes"):
        make("def preprocess(image): return image")
    with pytest.raises(ModelUnavailable, match="arrays of one shape and type"):
        make("import numpy as np\ndef preprocess(image): return np.zeros(image[0, 0, 0])")
    with pytest.raises(ModelUnavailable, match=r"preprocess in hooks\.py failed on a picture"):
        make("def preprocess(image): return 1 / 0")
    with pytest.raises(ModelUnavailable, match="has a load, which is for kind"):
        make("def load(): return len")


@pytest.mark.slow
@pytest.mark.usefixtures("converts_in_forks")
def test_a_keras_network_takes_what_preprocess_makes(tmp_path: Path) -> None:
    pictures = drawn_pictures.draw(read_model(ROOT / "models", "digits").input)
    options = EngineOptions(4, tmp_path / "cache")
    right = OpenVINOEngine(read_model(ROOT / "models", "digits"), "fp32", options).predict(pictures)
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "models" / "digits", folder)
    toml = (folder / "model.toml").read_text()
    assert 'normalise = "unit"' in toml
    (folder / "model.toml").write_text(toml.replace('normalise = "unit"', 'normalise = "none"'))
    (folder / "hooks.py").write_text("def preprocess(image): return image / 255\n")
    spec = read_model(tmp_path, "digits")
    engine = loading.load(spec, EngineChoice("openvino", "fp32"), options)
    assert isinstance(engine, HookedEngine)
    prepared = np.stack([engine.prepare(picture) for picture in pictures])
    np.testing.assert_allclose(engine.predict(prepared)[0], right[0], atol=1e-5)
    engine.close()
    with pytest.raises(
        ModelUnavailable, match=r"preprocess in hooks\.py does not run with ENGINE=tensorflow"
    ):
        loading.load(spec, EngineChoice("tensorflow", "fp32"), options)


def test_preprocess_gets_the_fractions_that_tensorflow_s_resizing_leaves(make: Make) -> None:
    """Half a level more makes another answer; rounded, the two pictures would be one."""
    toml = TOML.replace('fit = "stretch"\n', 'fit = "stretch"\nlibrary = "tensorflow"\n')
    spec, engine = make(PREPROCESS, toml)
    pixels = np.random.default_rng(6).integers(20, 250, (8, 8, 3)).astype(np.float32)
    pictures = np.stack([pixels, pixels + 0.25, pixels - 300])
    planes = np.stack([fixed_point.split(picture) for picture in pictures])
    assert planes[0].shape == spec.input.shape
    prepared = np.stack([engine.prepare(each) for each in planes])
    clipped = np.maximum(pictures, -128)  # as far as two bytes go
    np.testing.assert_allclose(engine.predict(prepared)[0], _right(clipped), rtol=1e-4, atol=1e-4)
    assert abs(prepared[1] - prepared[0]).max() * 255 == pytest.approx(0.25, abs=0.01)


def test_integers_are_taken_as_they_are(make: Make) -> None:
    _, engine = make("import numpy as np\ndef preprocess(image): return image[0, :6, 0].astype(np.int16)")
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    prepared = engine.prepare(picture)
    assert prepared.dtype == np.int16
    np.testing.assert_allclose(engine.predict(prepared[None])[0][0], picture[0, :6, 0] @ WEIGHTS, rtol=1e-4)
