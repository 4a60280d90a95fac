"""The OpenVINO engine on a network of three classes: its outputs, its check, its refusals. No Keras."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.engines import loading
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, runtime
from model_server.engines.openvino.compiled_network import CHUNK
from model_server.engines.openvino.engine import FITS_16_BITS, OpenVINOEngine, int8_ingredients
from model_server.engines.openvino.store import Store
from settings import PROJECT
from tests.model_server.engines import tiny

Load = Callable[..., OpenVINOEngine]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the tiny network, `wrong` if it should be; what `conversion` would do takes no process."""

    def load(precision: str = "fp32", *, wrong: float = 0.0, threads: int = 0) -> OpenVINOEngine:
        monkeypatch.setattr(
            conversion, "_run_child", lambda _spec, _width, folder: tiny.write(folder, wrong=wrong)
        )
        options = EngineOptions(batch_size=32, cache=tmp_path / "cache", threads=threads)
        return OpenVINOEngine(tiny.spec(tmp_path / "tiny"), precision, options)

    return load


@pytest.mark.parametrize("rows", [1, CHUNK, CHUNK + 1, 32, 45])
def test_every_picture_gets_its_own_outputs_at_any_size(load: Load, rows: int) -> None:
    batch = np.random.default_rng(rows).integers(0, 256, (rows, 2, 2, 1), dtype=np.uint8)
    (found,) = load().predict(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tiny.expected(batch), atol=1e-5)


def test_outputs_are_not_overwritten_by_the_next_call(load: Load) -> None:
    engine = load()
    dark, bright = (np.full((3, 2, 2, 1), value, np.uint8) for value in (0, 255))
    (first,) = engine.predict(dark)
    engine.predict(bright)
    np.testing.assert_allclose(first, tiny.expected(dark), atol=1e-5)


def test_a_view_that_is_not_contiguous_is_taken_too(load: Load) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (6, 2, 2, 2), dtype=np.uint8)[::2, :, :, :1]
    np.testing.assert_allclose(load().predict(batch)[0], tiny.expected(batch), atol=1e-5)


def test_a_network_that_computes_something_else_is_refused_at_every_start(load: Load) -> None:
    for _ in range(2):  # converted, then from the store
        with pytest.raises(ModelUnavailable, match="does not compute what plain Keras does"):
            load(wrong=1.0)


def test_it_is_converted_once_for_all_that_start(load: Load, tmp_path: Path) -> None:
    load()
    load()
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_a_precision_that_the_cpu_lacks_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "capabilities", lambda: frozenset({"FP32"}))
    with pytest.raises(
        ModelUnavailable, match="PRECISION=bf16 is not available: this CPU does not compute in bf16"
    ):
        load("bf16")


def test_int8_needs_to_be_made_first_and_serves_then(load: Load, tmp_path: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=r": \.venv/bin/python -m model_server quantise tiny --pictures FOLDER"
    ):
        load("int8")

    _make_int8(tmp_path, fits_16_bits=True)
    assert load("int8").precision == "int8"


def _make_int8(tmp_path: Path, *, fits_16_bits: bool) -> None:
    def make(folder: Path) -> dict[str, object]:
        tiny.write(folder)
        return {FITS_16_BITS: True} if fits_16_bits else {}

    Store(tmp_path / "cache").find_or_make("tiny", int8_ingredients(tiny.spec(tmp_path / "tiny")), make)


@pytest.mark.parametrize("fits_16_bits", [True, False])
@pytest.mark.parametrize("saturates", [True, False])
def test_int8_weights_of_8_bits_are_refused_where_sums_overflow(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, saturates: bool, fits_16_bits: bool
) -> None:
    monkeypatch.setattr(runtime, "saturates_int8", lambda: saturates)
    _make_int8(tmp_path, fits_16_bits=fits_16_bits)
    if saturates and not fits_16_bits:
        with pytest.raises(
            ModelUnavailable,
            match=r"made for CPUs with VNNI.*Make it again on this machine: \.venv/bin/python -m",
        ):
            load("int8")
    else:
        assert load("int8").precision == "int8"


def test_int8_is_openvino_s_alone(tmp_path: Path) -> None:
    options = EngineOptions(4, tmp_path)
    with pytest.raises(ModelUnavailable, match="PRECISION=int8 needs ENGINE=openvino, not jax"):
        loading.load(tiny.spec(tmp_path / "tiny"), EngineChoice("jax", "int8"), options)


def test_the_number_of_threads_is_heeded(load: Load) -> None:
    assert load(threads=1)._network._compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_a_conversion_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('x'); print('\"no weights: \\\\u00e9\"'); sys.exit({})"

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "model_server.engines.openvino.conversion"]
        return real(
            [sys.executable, "-c", program.format(status)], capture_output=True, text=True, check=False
        )

    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    spec = tiny.spec(tmp_path / "tiny")
    status = conversion._UNAVAILABLE
    with pytest.raises(ModelUnavailable, match=r"^no weights: é$"):
        conversion.converted(spec, "full", Store(tmp_path))
    status = 1
    with pytest.raises(ModelUnavailable, match=r"can't be converted for OpenVINO \(exit status 1"):
        conversion.converted(spec, "full", Store(tmp_path))


@pytest.mark.slow
def test_openvino_reports_to_nobody() -> None:
    code = (
        "import sys, model_server.engines.openvino.engine; "
        "print([name for name, module in sys.modules.items() if 'telemetry' in name and module])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "openvino_telemetry" not in done.stdout
    assert "telemetry_stub" in done.stdout
