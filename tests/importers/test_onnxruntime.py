"""ONNX files on ONNX Runtime: the answers of NumPy, of the file itself, and through the real service.

Needs an environment with the product's packages and ONNX Runtime: test_importers.py makes one and runs this.
"""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.engines import batch_sizes, loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import Engine, EngineOptions, Outputs
from model_server.engines.onnxruntime import providers
from model_server.tasks.task import ReadOptions
from pictures import fixed_point
from tests.model_server.engines import onnx_file
from tests.model_server.engines.openvino import test_imported_detector as detector
from tests.model_server.engines.openvino import test_importing as importing
from tests.model_server.engines.openvino import test_other_tasks as other_tasks
from tests.model_server.engines.openvino import test_own_precision as halves
from tests.model_server.engines.openvino.test_importing import HEIGHT, MANY, PICTURES, TOML, WEIGHTS, WIDTH
from tests.support import ROOT, http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.importers,
    pytest.mark.skipif(
        not importlib.util.find_spec("onnxruntime"), reason="test_importers.py runs it with ONNX Runtime"
    ),
]

if importlib.util.find_spec("onnxruntime"):
    import onnxruntime

    from model_server.engines.onnxruntime import runtime
    from model_server.engines.onnxruntime.engine import OnnxRuntimeEngine

CHOICE = EngineChoice("onnxruntime", "fp32")
NCHW = importing.content()
NHWC = importing.content(("batch", HEIGHT, WIDTH, 3))

Load = Callable[..., Engine]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write a model's folder and load it."""

    def load(onnx: bytes = NCHW, toml: str = TOML, *, provider: str = "auto", threads: int = 0) -> Engine:
        spec = importing.write(tmp_path / "net", onnx, toml)
        return loaded(spec, provider=provider, threads=threads)

    return load


def loaded(spec: ModelSpec, provider: str = "auto", threads: int = 0) -> Engine:
    options = EngineOptions(32, spec.folder.parent / "cache", threads=threads, provider=provider)
    return loading.load(spec, CHOICE, options)


def in_rows(batch: NDArray[Any]) -> NDArray[Any]:
    """What the network gives when it takes the channels last, by NumPy."""
    numbers = (batch.astype(np.float64) - importing.MEAN) / importing.STD
    return importing._softmax(numbers.reshape(len(batch), MANY) @ WEIGHTS)


@pytest.mark.parametrize(("onnx", "right"), [(NCHW, importing.expected), (NHWC, in_rows)])
def test_pictures_are_normalised_and_laid_out_as_the_file_wants(
    load: Load, onnx: bytes, right: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    engine = load(onnx)
    assert (engine.name, engine.precision, engine.outputs.served) == ("onnxruntime", "fp32", ("logits",))
    for rows in (1, 8, 21):
        np.testing.assert_allclose(engine.predict(PICTURES[:rows])[0], right(PICTURES[:rows]), atol=1e-5)


def test_it_gives_what_onnx_runtime_gives_by_itself(load: Load, tmp_path: Path) -> None:
    engine = load(toml=TOML.replace('activation = "softmax"', 'activation = "sigmoid"'))
    path = tmp_path / "net" / "net.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    numbers = ((PICTURES - np.array(importing.MEAN)) / importing.STD).astype(np.float32)
    (logits,) = session.run(None, {"picture": numbers.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(engine.predict(PICTURES)[0], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_channels_are_reversed(load: Load) -> None:
    engine = load(toml=TOML.replace("[output]", 'order = "bgr"\n[output]'))
    np.testing.assert_allclose(engine.predict(PICTURES)[0], importing.expected(PICTURES, bgr=True), atol=1e-5)


@pytest.mark.parametrize(("count", "sizes"), [(1, (1,)), (4, (4,))])
def test_a_file_for_a_fixed_number_of_pictures_runs_that_many_at_once(
    load: Load, count: int, sizes: tuple[int, ...]
) -> None:
    engine: Any = load(importing.content((count, 3, HEIGHT, WIDTH), flat=(count, MANY)))
    assert engine._sizes == sizes
    for rows in (1, 4, 21):
        right = importing.expected(PICTURES[:rows])
        np.testing.assert_allclose(engine.predict(PICTURES[:rows])[0], right, atol=1e-5)


@pytest.mark.parametrize("flat", [(1, MANY), (2, -1)])
def test_a_file_that_promises_batches_and_can_not_runs_one_picture_at_a_time(
    load: Load, flat: tuple[int, int]
) -> None:
    if flat[0] == 2:
        with pytest.raises(ModelUnavailable, match="ONNX Runtime can't run it on 1 x 3 x 4 x 5 numbers"):
            load(importing.content(flat=flat))
        return
    engine: Any = load(importing.content(flat=flat))
    assert engine._sizes == (1,)
    np.testing.assert_allclose(engine.predict(PICTURES)[0], importing.expected(PICTURES), atol=1e-5)


def test_batches_padded_as_for_a_gpu_give_the_same(load: Load) -> None:
    engine: Any = load()
    assert engine._sizes == ()
    assert engine._batches(32, is_on_cpu=False) == batch_sizes.sizes(32)
    engine._sizes = batch_sizes.sizes(16)
    for rows in (1, 3, 21):
        right = importing.expected(PICTURES[:rows])
        np.testing.assert_allclose(engine.predict(PICTURES[:rows])[0], right, atol=1e-5)


@pytest.mark.parametrize("is_bgr", [False, True])
def test_fractions_of_pixels_go_through(load: Load, is_bgr: bool) -> None:
    order = 'order = "bgr"\n' if is_bgr else ""
    engine = load(toml=TOML.replace("[output]", f'library = "tensorflow"\n{order}[output]'))
    values = importing._values(9)
    found = engine.predict(fixed_point.split(values))[0]
    np.testing.assert_allclose(found, importing.expected(values, bgr=is_bgr), atol=1e-5)


def bytes_network() -> bytes:
    """A network that takes the pixels as bytes, channels last."""
    nodes = [
        onnx_file.node("DequantizeLinear", ["bytes", "step"], "picture"),
        onnx_file.node("Reshape", ["picture", "flat"], "row"),
        onnx_file.node("MatMul", ["row", "weights"], "numbers"),
    ]
    return onnx_file.model(
        nodes,
        [onnx_file.value("bytes", ("batch", HEIGHT, WIDTH, 3), onnx_file.UINT8)],
        [onnx_file.value("numbers", ("batch", 3))],
        [
            onnx_file.constant("step", np.array(1, np.float32)),
            onnx_file.constant("flat", np.array((-1, MANY), np.int64)),
            onnx_file.constant("weights", np.asarray(WEIGHTS / 50, np.float32)),
        ],
    )


def test_a_network_of_bytes_gets_them_as_they_are(load: Load) -> None:
    with pytest.raises(ModelUnavailable, match='Write normalise = "none" in'):
        load(bytes_network())
    normalise = "normalise = { mean = [120, 110, 100], std = [60, 50, 40] }"
    toml = TOML.replace(normalise, 'normalise = "none"')
    right = importing._softmax(PICTURES.reshape(-1, MANY).astype(np.float64) @ (WEIGHTS / 50))
    np.testing.assert_allclose(load(bytes_network(), toml).predict(PICTURES)[0], right, atol=1e-5)
    values = importing._values(20)
    engine = load(bytes_network(), toml.replace("[output]", 'library = "tensorflow"\n[output]'))
    whole = np.clip(np.rint(values), 0, 255).reshape(-1, MANY).astype(np.float64)
    found = engine.predict(fixed_point.split(values))[0]
    np.testing.assert_allclose(found, importing._softmax(whole @ (WEIGHTS / 50)), atol=1e-5)


def test_a_file_in_float16_is_judged_by_what_float16_can_hold(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(halves._content(onnx_file.FLOAT16))
    (folder / "model.toml").write_text(halves.TOML)
    (folder / "labels.txt").write_text("\n".join("abcde"))
    engine = loaded(read_model(tmp_path, "net"))
    right = importing._softmax(halves._logits(halves.PICTURES))
    np.testing.assert_allclose(engine.predict(halves.PICTURES)[0], right, atol=0.02)


def test_a_quantised_file_computes_what_it_says(load: Load) -> None:
    """Rounded activations and weights of 8 bits, as its QuantizeLinear has them."""
    step, weight_step = np.float32(0.0473), np.float32(0.01)
    whole = np.clip(np.rint(WEIGHTS / weight_step), -127, 127).astype(np.int8)
    zero = np.array(0, np.int8)
    content = onnx_file.model(
        [
            onnx_file.node("Reshape", ["picture", "flat"], "row"),
            onnx_file.node("QuantizeLinear", ["row", "step", "zero"], "integers"),
            onnx_file.node("DequantizeLinear", ["integers", "step", "zero"], "rounded"),
            onnx_file.node("DequantizeLinear", ["weights", "weight step", "zero"], "wide"),
            onnx_file.node("MatMul", ["rounded", "wide"], "logits"),
        ],
        [onnx_file.value("picture", ("batch", 3, HEIGHT, WIDTH))],
        [onnx_file.value("logits", ("batch", 3))],
        [
            onnx_file.constant("flat", np.array((-1, MANY), np.int64)),
            onnx_file.constant("step", np.array(step)),
            onnx_file.constant("weight step", np.array(weight_step)),
            onnx_file.constant("zero", zero),
            onnx_file.constant("weights", whole),
        ],
    )
    numbers = ((PICTURES - np.array(importing.MEAN)) / importing.STD).transpose(0, 3, 1, 2)
    rounded = np.clip(np.rint(numbers.reshape(-1, MANY) / step), -128, 127) * step
    right = importing._softmax(rounded @ (whole * np.float64(weight_step)))
    assert np.abs(right - importing.expected(PICTURES)).max() > 0.01
    np.testing.assert_allclose(load(content).predict(PICTURES)[0], right, atol=1e-3)


def test_a_detector_s_outputs_are_taken_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(detector._separate())
    (folder / "model.toml").write_text(detector.TOML + 'boxes = "boxes"\nscores = "scores"\n')
    (folder / "labels.txt").write_text("one\ntwo\nthree\n")
    spec = read_model(tmp_path, "net")
    boxes, scores = loaded(spec).predict(detector.PICTURES)
    right = [detector._shares(each) for each in (detector.PLACES, detector.SCORES)]
    np.testing.assert_allclose(boxes, right[0].reshape(-1, detector.BOXES, 4), atol=1e-5)
    np.testing.assert_allclose(scores, right[1].reshape(-1, detector.BOXES, detector.CLASSES), atol=1e-5)
    found = spec.task.read((boxes[0], scores[0]), spec, ReadOptions((1000, 1000), 9)).predictions
    assert len(found) == (scores[0].max(axis=1) >= 0.5).sum() > 0


def test_every_output_is_served_to_the_task_that_takes_all(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.onnx").write_bytes(other_tasks._onnx())
    (folder / "model.toml").write_text(other_tasks.TOML.replace("TASK", "raw"))
    engine = loaded(read_model(tmp_path, "net"))
    assert engine.outputs.served == ("vector", "quantities", "negative")
    vector, ages, negative = engine.predict(other_tasks.PICTURES)
    np.testing.assert_allclose(vector, other_tasks.ROWS @ other_tasks.VECTORS, atol=1e-4)
    np.testing.assert_allclose(ages, other_tasks.ROWS @ other_tasks.AGES, atol=1e-4)
    np.testing.assert_allclose(negative.reshape(5, -1), 1 - other_tasks.ROWS, atol=1e-6)


def test_an_output_that_is_not_the_pictures_is_refused(tmp_path: Path) -> None:
    """As of a detector with its own suppression: rows for all pictures together."""
    folder = tmp_path / "net"
    folder.mkdir()
    content = onnx_file.model(
        [onnx_file.node("Reshape", ["picture", "shape"], "rows")],
        [onnx_file.value("picture", ("n", 3, 12, 12))],
        [onnx_file.value("rows", ("m", 4))],
        [onnx_file.constant("shape", np.array((-1, 4), np.int64))],
    )
    (folder / "net.onnx").write_bytes(content)
    toml = other_tasks.TOML.replace("TASK", "raw") + '[output]\nname = "rows"\n'
    (folder / "model.toml").write_text(toml)
    with pytest.raises(ModelUnavailable, match=r"'rows' is \(108, 4\) for one picture"):
        loaded(read_model(tmp_path, "net"))


@pytest.mark.parametrize(
    ("onnx", "words"),
    [
        (b"\x08\x08\x12\x03abc", r"ONNX Runtime can't read net.onnx: "),
        (importing.content(second_input=True), r"has 2 inputs \(more, picture\)"),
        (
            importing.content(("batch", 3, 9, WIDTH)),
            r"takes \[\?,3,9,5\], but model.toml says pictures of 5 x 4",
        ),
        (importing.content(ends_in="Softmax"), "gives probabilities already"),
        (importing.content(weights=np.full_like(WEIGHTS, np.nan)), "gives NaN"),
    ],
)
def test_what_can_not_be_served_is_refused(load: Load, onnx: bytes, words: str) -> None:
    with pytest.raises(ModelUnavailable, match=words):
        load(onnx)


def test_another_kind_of_numbers_is_refused(load: Load) -> None:
    content = onnx_file.model(
        [onnx_file.node("Identity", ["picture"], "out")],
        [onnx_file.value("picture", ("n", 3, HEIGHT, WIDTH), onnx_file.INT64)],
        [onnx_file.value("out", ("n", 3, HEIGHT, WIDTH), onnx_file.INT64)],
        [],
    )
    with pytest.raises(ModelUnavailable, match="takes pixels as int64, which is not supported"):
        load(content)


def test_files_of_ultralytics_are_held_against_model_toml(load: Load) -> None:
    said = {"names": "{0: 'one', 1: 'two', 2: 'three'}", "stride": "32", "task": "classify"}
    toml = TOML.replace("{ mean = [120, 110, 100], std = [60, 50, 40] }", '"torch"')
    with pytest.raises(ModelUnavailable, match="its networks take 0 to 1 in RGB"):
        load(NCHW + onnx_file.metadata(said), toml)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_refused(load: Load, provider: str) -> None:
    with pytest.raises(ModelUnavailable, match=f"ONNXRUNTIME_PROVIDER={provider} needs a build"):
        load(provider=provider)
    assert load(provider="cpu").predict(PICTURES)[0].shape == (21, 3)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnx_runtime_s_own_fall_back_to_the_cpu_is_noticed(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where onnxruntime-gpu is installed and cuDNN is not: it warns and makes a session on the CPU."""
    monkeypatch.setattr(runtime, "available", lambda: (providers.CUDA, providers.CPU))
    monkeypatch.setattr("model_server.engines.choice.has_nvidia_gpu", lambda: True)
    for setting in ("cuda", "auto"):
        with pytest.raises(ModelUnavailable, match=r"it runs on CPUExecutionProvider.*Nothing falls back"):
            load(provider=setting)


def test_a_provider_that_can_not_run_the_network_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the driver is too old for the CUDA that onnxruntime-gpu brings."""
    make = onnxruntime.InferenceSession

    def failing(graph: Any, options: Any, *, providers: Any, **others: Any) -> Any:  # noqa: ANN401
        if providers[0][0] == "CUDAExecutionProvider":
            raise runtime.ERRORS[-1]("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 35: driver version.")
        return make(graph, options, providers=providers, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", failing)
    monkeypatch.setattr(runtime, "available", lambda: (providers.CUDA, providers.CPU))
    monkeypatch.setattr("model_server.engines.choice.has_nvidia_gpu", lambda: True)
    words = r"can't run net.onnx with CUDAExecutionProvider: CUDA failure 35: driver version\. .*=cpu runs"
    with pytest.raises(ModelUnavailable, match=words):
        load(provider="cuda")


def test_a_gpu_that_the_installed_build_leaves_idle_is_reported(
    load: Load, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("model_server.engines.choice.has_nvidia_gpu", lambda: True)
    load()
    assert "has an NVIDIA GPU, but the installed ONNX Runtime runs on the CPU alone" in caplog.text


def test_threads_are_those_of_the_setting(load: Load) -> None:
    engine: Any = load(threads=1)
    assert engine._network._session._session.get_session_options().intra_op_num_threads == 1
    engine = load()
    options = engine._network._session._session.get_session_options()
    assert options.intra_op_num_threads == runtime.cores() >= 1


def test_an_engine_that_computes_something_else_is_refused(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = OnnxRuntimeEngine._run

    def wrong(self: Any, batch: NDArray[Any]) -> Outputs:  # noqa: ANN401
        return tuple(output[:, ::-1] for output in run(self, batch))

    monkeypatch.setattr(OnnxRuntimeEngine, "_run", wrong)
    with pytest.raises(ModelUnavailable, match=r"does not compute what its file.*another PRECISION or E"):
        load()


PREPROCESS = """import numpy as np


def preprocess(image):
    numbers = (image - np.array([120.0, 110.0, 100.0])) / np.array([60.0, 50.0, 40.0])
    return numbers.transpose(2, 0, 1)AS
"""


def test_a_network_can_have_its_own_preprocessing(tmp_path: Path) -> None:
    toml = TOML.replace("{ mean = [120, 110, 100], std = [60, 50, 40] }", '"none"')
    importing.write(tmp_path / "net", toml=toml)
    code = tmp_path / "net" / "hooks.py"
    code.write_text(PREPROCESS.replace("AS", ".reshape(-1)"))
    with pytest.raises(ModelUnavailable, match=r"returns \(60,\) for a picture, but the network takes \[\?"):
        loaded(read_model(tmp_path, "net"))
    code.write_text(PREPROCESS.replace("AS", ".astype(np.float64)"))
    engine: Any = loaded(read_model(tmp_path, "net"))
    try:
        prepared = np.stack([engine.prepare(picture) for picture in PICTURES])
        np.testing.assert_allclose(engine.predict(prepared)[0], importing.expected(PICTURES), atol=1e-5)
    finally:
        engine.close()


SERVES = """import sys
from pathlib import Path
from model_server.engines import loading
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import EngineOptions
from model_server.engines.choice import EngineChoice
spec = read_model(Path(sys.argv[1]), "net")
engine = loading.load(spec, EngineChoice("onnxruntime", "fp32"), EngineOptions(8, Path(sys.argv[1], "cache")))
print(engine.name, *(name in sys.modules for name in ("openvino", "tensorflow", "torch", "PIL")))
"""


def test_a_process_that_serves_with_it_loads_no_other_runtime(tmp_path: Path) -> None:
    importing.write(tmp_path / "net")
    done = subprocess.run(
        [sys.executable, "-c", SERVES, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "onnxruntime False False False False\n", done.stderr[-3000:]


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The real processes, to serve tmp_path/models/net on ONNX Runtime."""
    made = Stack(tmp_path, own_redis.url, "net")
    made.environment |= {
        "MODELS_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        "ENGINE": "onnxruntime",
        "ONNXRUNTIME_PROVIDER": "cpu",
        "ENGINE_THREADS": "1",
        "REQUEST_TIMEOUT_S": "60",
    }
    try:
        yield made
    finally:
        made.stop()


@pytest.mark.timeout(200)
def test_the_service_answers_with_it(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    spec = importing.write(tmp_path / "models" / "net")
    stack.start_web()
    stack.start("model_server", log="model_server")
    eventually(lambda: stack.answers("/readyz?model=net"), within_s=120)
    files = [("image", (f"{number}.png", png(picture))) for number, picture in enumerate(PICTURES)]
    answer = http.post(f"{stack.url}/predict?top=3", files=files, timeout=120).json()
    assert {(each["engine"], each["precision"]) for each in answer["results"]} == {("onnxruntime", "fp32")}
    labels = [label.label for label in spec.labels]
    found = [
        {each["label"]: each["probability"] for each in result["predictions"]} for result in answer["results"]
    ]
    rows = np.array([[each[label] for label in labels] for each in found])
    np.testing.assert_allclose(rows, importing.expected(PICTURES), atol=1e-4)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """A picture that needs no resizing."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
