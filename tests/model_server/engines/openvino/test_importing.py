"""Imported networks, on ONNX files of one layer: what goes before it and after it, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines import loading
from model_server.engines.check import agreement
from model_server.engines.choice import EngineChoice, choose_for
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, importing, store
from model_server.engines.openvino.compiled_network import CHUNK
from model_server.engines.openvino.engine import OpenVINOEngine
from pictures import fixed_point
from tests.model_server.engines import onnx_file

pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 4, 5
MANY = HEIGHT * WIDTH * 3
WEIGHTS = np.random.default_rng(8).normal(0, 0.3, (MANY, 3)).astype(np.float32)
FIRST = np.ascontiguousarray(WEIGHTS[:, :1])
PICTURES = np.random.default_rng(9).integers(0, 256, (21, HEIGHT, WIDTH, 3), dtype=np.uint8)
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]

TOML = """task = "classification"
labels = "labels.txt"
top = 2
[source]
kind = "onnx"
file = "net.onnx"
[input]
width = 5
height = 4
channels = 3
fit = "stretch"
normalise = { mean = [120, 110, 100], std = [60, 50, 40] }
[output]
activation = "softmax"
"""


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def expected(
    batch: NDArray[Any], *, bgr: bool = False, last: Callable[[NDArray[Any]], NDArray[Any]] = _softmax
) -> NDArray[Any]:
    """What the network gives, by NumPy: channels first, then flat."""
    pixels = batch[..., ::-1] if bgr else batch
    numbers = (pixels.astype(np.float64) - MEAN) / STD
    return last(numbers.transpose(0, 3, 1, 2).reshape(len(batch), MANY) @ WEIGHTS)


def content(
    shape: onnx_file.Shape = ("batch", 3, HEIGHT, WIDTH),
    *,
    flat: tuple[int, ...] = (-1, MANY),
    second_input: bool = False,
    ends_in: str = "",
    weights: NDArray[np.float32] = WEIGHTS,
) -> bytes:
    """One layer's ONNX; `flat` is written into its reshape."""
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "numbers"),
        onnx_file.node("Reshape", ["numbers", "rows"], "logits"),
    ]
    inputs = [onnx_file.value("picture", shape)]
    if second_input:
        nodes.append(onnx_file.node("Add", ["logits", "more"], "sum"))
        inputs.append(onnx_file.value("more", (1, 3)))
    if ends_in:
        nodes.append(onnx_file.node(ends_in, ["logits"], "shares"))
    last = "sum" if second_input else "shares" if ends_in else "logits"
    classes = weights.shape[1]
    outputs = [onnx_file.value(last, (shape[0], classes))]
    constants = [
        onnx_file.constant("flat", np.array(flat, np.int64)),
        onnx_file.constant("rows", np.array((1 if shape[0] == 1 else -1, classes), np.int64)),
        onnx_file.constant("weights", weights),
    ]
    return onnx_file.model(nodes, inputs, outputs, constants)


class Load(Protocol):
    def __call__(
        self, onnx: bytes = ..., toml: str = ..., labels: str = ..., precision: str = ...
    ) -> OpenVINOEngine: ...


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a model's folder and load it; what a child process would do is done in this one."""
    monkeypatch.setattr(conversion, "_run_child", _in_this_process)

    def load(
        onnx: bytes = content(),
        toml: str = TOML,
        labels: str = "one\ntwo\nthree\n",
        precision: str = "fp32",
    ) -> OpenVINOEngine:
        spec = write(tmp_path / "net", onnx, toml, labels)
        return OpenVINOEngine(spec, precision, EngineOptions(32, tmp_path / "cache"))

    return load


def _in_this_process(spec: ModelSpec, width: str, folder: Path) -> None:
    importing.write(spec, folder, half=width == "half", in_int8=width == "int8")


def write(
    folder: Path, onnx: bytes = content(), toml: str = TOML, labels: str = "one\ntwo\nthree\n"
) -> ModelSpec:
    """A model's folder."""
    folder.mkdir(exist_ok=True)
    (folder / "net.onnx").write_bytes(onnx)
    (folder / "model.toml").write_text(toml)
    (folder / "labels.txt").write_text(labels)
    return read_model(folder.parent, folder.name)


def test_normalisation_layout_and_activation_are_in_the_graph(load: Load) -> None:
    engine = load()
    for rows in (1, CHUNK, 21):
        np.testing.assert_allclose(engine.predict(PICTURES[:rows])[0], expected(PICTURES[:rows]), atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16"])
def test_it_runs_in_16_bits_too(load: Load, precision: str) -> None:
    try:
        found = load(precision=precision).predict(PICTURES)[0]
    except ModelUnavailable as error:
        if "is not available" not in error.message:
            raise
        pytest.skip(error.message)  # a CPU without bf16
    assert np.abs(found - expected(PICTURES)).max() < 0.05


def test_channels_are_reversed_before_they_are_normalised(load: Load) -> None:
    engine = load(toml=TOML.replace("[output]", 'order = "bgr"\n[output]'))
    np.testing.assert_allclose(engine.predict(PICTURES)[0], expected(PICTURES, bgr=True), atol=1e-5)


def _values(count: int) -> NDArray[np.float32]:
    """Pixels with fractions that two bytes hold exactly, some below black and above white."""
    steps = np.random.default_rng(10).integers(-60 * 128, 315 * 128, (count, HEIGHT, WIDTH, 3))
    return (steps / 128).astype(np.float32)


@pytest.mark.parametrize("is_bgr", [False, True])
def test_fractions_of_pixels_go_through_the_network(load: Load, is_bgr: bool) -> None:
    order = 'order = "bgr"\n' if is_bgr else ""
    engine = load(toml=TOML.replace("[output]", f'library = "tensorflow"\n{order}[output]'))
    values = _values(CHUNK + 1)
    found = engine.predict(fixed_point.split(values))[0]
    np.testing.assert_allclose(found, expected(values, bgr=is_bgr), atol=1e-5)
    assert np.abs(found - expected(np.rint(values), bgr=is_bgr)).max() > 1e-4


def test_a_network_of_bytes_gets_fractions_rounded(load: Load) -> None:
    """A network that casts bytes itself, as TensorFlow's object detection exports do."""
    nodes = [
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "numbers"),
    ]
    onnx = onnx_file.model(
        [onnx_file.node("DequantizeLinear", ["bytes", "step"], "picture"), *nodes],
        [onnx_file.value("bytes", ("batch", HEIGHT, WIDTH, 3), onnx_file.UINT8)],
        [onnx_file.value("numbers", ("batch", 3))],
        [
            onnx_file.constant("step", np.array(1, np.float32)),
            onnx_file.constant("flat", np.array((-1, MANY), np.int64)),
            onnx_file.constant("weights", np.asarray(WEIGHTS / 50, np.float32)),
        ],
    )
    pixels = 'normalise = "none"\nlibrary = "tensorflow"'
    engine = load(onnx, TOML.replace("normalise = { mean = [120, 110, 100], std = [60, 50, 40] }", pixels))
    values = _values(20)
    whole = np.clip(np.rint(values), 0, 255)
    right = _softmax(whole.reshape(-1, MANY).astype(np.float64) @ (WEIGHTS / 50))
    np.testing.assert_allclose(engine.predict(fixed_point.split(values))[0], right, atol=1e-5)


def test_sigmoid_is_for_classes_that_go_together(load: Load) -> None:
    engine = load(toml=TOML.replace('"softmax"', '"sigmoid"'))
    right = expected(PICTURES, last=lambda logits: 1 / (1 + np.exp(-logits)))
    np.testing.assert_allclose(engine.predict(PICTURES)[0], right, atol=1e-5)


def test_logits_that_lie_within_0_and_1_are_no_probabilities(load: Load) -> None:
    weights = np.full((MANY, 3), [0.001, 0.002, 0.003], np.float32)
    toml = TOML.replace('"softmax"', '"sigmoid"').replace("[120, 110, 100]", "[-60, -60, -60]")
    found = load(content(weights=weights), toml).predict(PICTURES)[0]
    logits = np.log(found / (1 - found))
    assert 0 < logits.min() < logits.max() < 1


@pytest.mark.parametrize("flat", [(1, MANY), (1, -1)])
def test_a_file_made_for_one_picture_takes_many(load: Load, flat: tuple[int, ...]) -> None:
    engine = load(content((1, 3, HEIGHT, WIDTH), flat=flat))
    assert engine._network._chunk == CHUNK
    np.testing.assert_allclose(engine.predict(PICTURES)[0], expected(PICTURES), atol=1e-5)


def test_a_file_that_can_only_take_one_picture_runs_them_one_by_one(load: Load) -> None:
    engine = load(content((1, 3, HEIGHT, WIDTH), flat=(MANY,)))  # the picture's axis is lost in it
    assert engine._network._chunk == 1
    np.testing.assert_allclose(engine.predict(PICTURES)[0], expected(PICTURES), atol=1e-5)


@pytest.mark.parametrize(
    ("onnx", "toml", "labels", "words"),
    [
        (content(), TOML, "one\ntwo\n", r"output for a picture is \(3,\), but there are 2 labels"),
        (
            content(),
            TOML.replace('"softmax"', '"none"'),
            "1\n2\n3",
            r'not probabilities.*activation = "softmax"',
        ),
        (content(ends_in="Softmax"), TOML, "1\n2\n3", "probabilities already.*Remove that line"),
        (content(ends_in="Sigmoid"), TOML, "1\n2\n3", "probabilities already.*Remove that line"),
        (
            content(ends_in="Sigmoid"),
            TOML.replace('"softmax"', '"sigmoid"'),
            "1\n2\n3",
            'already, and activation = "sigmoid"',
        ),
        (content(second_input=True), TOML, "1\n2\n3", r"2 inputs \(more, picture\)"),
        (content(), TOML.replace("width = 5", "width = 6"), "1\n2\n3", r"takes \[\?,3,4,5\].*6 x 4"),
        (content(("batch", 3, HEIGHT)), TOML, "1\n2\n3", r"takes \[\?,3,4\], but model.toml says"),
        (b"no network", TOML, "1\n2\n3", r"OpenVINO can't read net.onnx.*ENGINE=onnxruntime may be able"),
        (b"\x1c\0\0\0TFL3", TOML, "1\n2\n3", r"can't read net.onnx.*write kind = \"tflite\", not \"onnx\""),
        (content(), TOML.replace("net.onnx", "gone.onnx"), "1\n2\n3", "no file 'gone.onnx'"),
        (content(), TOML.replace("net.onnx", "."), "1\n2\n3", "'.' is a folder"),
    ],
)
def test_what_can_not_be_served_is_refused_with_what_to_do(
    load: Load, onnx: bytes, toml: str, labels: str, words: str
) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        load(onnx, toml, labels)


def test_any_file_of_the_folder_is_an_ingredient(tmp_path: Path) -> None:
    spec = write(tmp_path / "net")
    first = store.network_ingredients(spec)
    assert store.network_ingredients(write(tmp_path / "net", labels="a\nb\nc\n")) == first
    (tmp_path / "net" / "net.onnx.data").write_bytes(b"weights that are too large for the file")
    second = store.network_ingredients(spec)
    assert second != first
    assert store.network_ingredients(write(tmp_path / "net", content((1, 3, 4, 5)))) != second
    normalised = TOML.replace("[120,", "[121,")
    changed = store.network_ingredients(write(tmp_path / "net", toml=normalised))
    assert changed != store.network_ingredients(write(tmp_path / "net"))


def test_what_was_converted_under_other_rules_is_judged_anew(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    judged: list[str] = []

    def convert(spec: ModelSpec, width: str, folder: Path) -> None:
        judged.append(spec.name)
        _in_this_process(spec, width, folder)

    monkeypatch.setattr(conversion, "_run_child", convert)
    load()
    assert judged == []
    monkeypatch.setattr(agreement, "RULES", agreement.RULES + 1)
    load()
    assert judged == ["net"]


def test_the_check_at_each_start_finds_another_network(load: Load, tmp_path: Path) -> None:
    load()
    (entry,) = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    with np.load(entry / "reference.npz") as arrays:
        spoilt = {
            name: arrays[name][::-1] if name.startswith("output_") else arrays[name] for name in arrays.files
        }
    np.savez_compressed(entry / "reference.npz", **spoilt)
    manifest = json.loads((entry / "manifest.json").read_text())
    manifest["bytes"]["reference.npz"] = (entry / "reference.npz").stat().st_size
    (entry / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelUnavailable, match="does not compute what its file does in fp32"):
        load()


def test_it_takes_openvino_whatever_runs_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_server.engines.choice.has_gpu", lambda _: True)
    spec = write(tmp_path / "net")
    assert choose_for(spec, "auto", "fp32", keras_backend="tensorflow") == EngineChoice("openvino", "fp32")
    chosen = choose_for(spec, "tensorflow", "fp32", keras_backend="tensorflow")
    with pytest.raises(ModelUnavailable, match=r"ENGINE=tensorflow runs only Keras networks.*ENGINE=auto"):
        loading.load(spec, chosen, EngineOptions(4, tmp_path))


def test_importing_needs_neither_tensorflow_nor_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    real = subprocess.run

    def run(command: list[str], **how: Any) -> Any:  # noqa: ANN401
        ran.append(command)
        blocked = "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'jax', 'onnx')))"
        code = (
            f"{blocked}; from model_server.engines.openvino import conversion; "
            "sys.exit(conversion.main(sys.argv[1:]))"
        )
        return real([sys.executable, "-c", code, *command[3:]], **how)

    monkeypatch.setattr(subprocess, "run", run)
    spec = write(tmp_path / "net")
    engine = OpenVINOEngine(spec, "fp32", EngineOptions(4, tmp_path / "cache"))
    assert len(ran) == 1
    np.testing.assert_allclose(engine.predict(PICTURES)[0], expected(PICTURES), atol=1e-5)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_one_number_for_two_labels_is_the_probability_of_the_second(load: Load, batch: int | str) -> None:
    onnx = content((batch, 3, HEIGHT, WIDTH), flat=(1 if batch == 1 else -1, MANY), weights=FIRST)
    engine = load(onnx, TOML.replace('"softmax"', '"sigmoid"'), "cat\ndog\n")
    second = expected(PICTURES, last=lambda logits: 1 / (1 + np.exp(-logits[:, :1])))
    (found,) = engine.predict(PICTURES)
    np.testing.assert_allclose(found, np.concatenate([1 - second, second], axis=1), atol=1e-5)


def test_a_softmax_of_one_number_is_refused(load: Load) -> None:
    with pytest.raises(ModelUnavailable, match="a softmax of one is always 1"):
        load(content(weights=FIRST), labels="cat\ndog\n")


def test_a_detector_without_its_layout_is_refused_with_it(load: Load) -> None:
    toml = TOML.replace('task = "classification"', 'task = "detection"').split("[output]")[0]
    with pytest.raises(
        ModelUnavailable, match=r'\(4 \+ labels, n\) needs layout = "ultralytics"\. A classifier needs task'
    ):
        load(toml=toml)


def test_a_sigmoid_on_the_one_number_of_a_sigmoid_is_refused(load: Load) -> None:
    onnx = content(weights=FIRST, ends_in="Sigmoid")
    (found,) = load(onnx, TOML.split("[output]", maxsplit=1)[0], "cat\ndog\n").predict(PICTURES)
    assert found.sum(axis=1) == pytest.approx(1)
    with pytest.raises(ModelUnavailable, match="gives probabilities already"):
        load(onnx, TOML.replace('"softmax"', '"sigmoid"'), "cat\ndog\n")
