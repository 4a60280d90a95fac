"""What the processor does to 8-bit products, and that only int8 lets it: on this one and on others."""

import json
import os
import platform
import resource
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_server.engines.openvino import runtime
from tests.model_server.engines.openvino.processors import run_on

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx_vnni", "avx512_vnni", "amx_int8"}

# 16 products of 250 and 120, of which two do not fit 16 bits. The weights are as a file may have them: stored
# in 8 bits and scaled (TensorFlow Lite, ONNX), or in 32 and rounded by the graph (a frozen graph).
PROGRAM = """
import json, sys
import numpy as np
from model_server.engines.openvino import runtime

def stored(build):
    weights = build.convert(build.constant(np.full((8, 16), 120, np.int8)), "f32")
    return build.multiply(weights, build.constant(np.full((8, 1), 0.5, np.float32)))

def rounded(build):
    bounds = [build.constant(np.float32(each)) for each in (-63.5, 63.5)]
    return build.fake_quantize(build.constant(np.full((8, 16), 60.1, np.float32)), *bounds, *bounds, 255)

def products(precision, weights):
    build = runtime.operations()
    given = build.parameter([1, 16], np.float32)
    bounds = [build.constant(np.float32(each)) for each in (0, 255)]
    bytes_ = build.fake_quantize(given, *bounds, *bounds, 256)
    product = build.matmul(bytes_, weights(build), transpose_a=False, transpose_b=True)
    network = runtime.compile_for_cpu(runtime.Model([product], [given], "products"), precision)
    (found,) = network([np.full((1, 16), 250.3, np.float32)]).values()
    return found.reshape(-1).tolist()

seen = {kind: [products(kind, stored), products(kind, rounded)] for kind in ("fp32", "int8")}
print(json.dumps({"saturates": runtime.saturates_int8(), **seen}))
"""
RIGHT = 16 * 250 * 120 * 0.5


@cache
def _seen(most: str) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(run_on(most, "-c", PROGRAM))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("most", ["SSE41", "AVX2", "AVX512_CORE"])
def test_without_vnni_products_overflow_in_int8_and_are_right_in_fp32(most: str) -> None:
    seen = _seen(most)
    assert seen["saturates"] is True
    assert np.max(seen["int8"]) < 0.9 * RIGHT  # else there is nothing to keep a network from
    np.testing.assert_allclose(seen["fp32"], RIGHT, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("most", ["", "AVX2_VNNI", "AVX512_CORE_VNNI"])
def test_where_nothing_overflows_int8_is_right(most: str) -> None:
    seen = _seen(most)
    if seen["saturates"]:
        pytest.skip("this processor has no such VNNI to be restricted to")
    np.testing.assert_allclose(seen["int8"], RIGHT, rtol=1e-6)
    np.testing.assert_allclose(seen["fp32"], RIGHT, rtol=1e-6)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.is_file(), reason="only Linux on x86 lists VNNI"
)
@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" in os.environ, reason="the list knows nothing of oneDNN's cap")
def test_what_is_computed_is_what_the_processor_says() -> None:
    flags = next(line for line in CPUINFO.read_text("utf-8").splitlines() if line.startswith("flags"))
    assert runtime.saturates_int8() is not bool(VNNI & set(flags.split()))


def test_it_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = runtime.saturates_int8()
    monkeypatch.setattr(runtime, "compile_for_cpu", lambda *_: sys.exit("compiled again"))
    assert runtime.saturates_int8() is first


@pytest.fixture
def two_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[float]]]:
    """A CPU that has bf16, and whose runs take what a test says, in each precision."""
    times: dict[str, list[float]] = {}
    monkeypatch.setattr(runtime, "capabilities", lambda: frozenset({"FP32", "BF16"}))
    monkeypatch.setattr(runtime, "_piece_of_a_network", lambda precision: times[precision].pop)
    monkeypatch.setattr(runtime, "_cpu_s", lambda run: run())
    runtime.gains_from_bf16.cache_clear()
    yield times
    runtime.gains_from_bf16.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "gains"), [(2.5, 1.0, True), (1.3, 1.0, True), (1.1, 1.0, False), (0.6, 1.0, False)]
)
def test_bf16_has_to_be_a_fifth_faster(
    two_pieces: dict[str, list[float]], fp32: float, bf16: float, *, gains: bool
) -> None:
    two_pieces |= {"fp32": [fp32] * 10, "bf16": [bf16] * 10}
    assert runtime.gains_from_bf16() is gains


def test_a_core_that_others_use_slows_some_runs_and_not_the_least(two_pieces: dict[str, list[float]]) -> None:
    two_pieces |= {"fp32": [9.0] * 9 + [1.0], "bf16": [1.1] * 10}
    assert runtime.gains_from_bf16() is False


def test_where_there_is_no_bf16_nothing_is_computed(
    two_pieces: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "capabilities", lambda: frozenset({"FP32"}))
    assert runtime.gains_from_bf16() is False
    assert not two_pieces


def test_a_piece_is_computed_in_the_precision_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_for_cpu = runtime.compile_for_cpu

    def keep(model: Any, precision: str, **properties: object) -> Any:  # noqa: ANN401
        compiled.append(compile_for_cpu(model, precision, **properties))
        return compiled[-1]

    monkeypatch.setattr(runtime, "compile_for_cpu", keep)
    for precision, hint in (("fp32", "f32"), ("bf16", "bf16")):
        if runtime.lacks(precision):
            continue
        assert runtime._cpu_s(runtime._piece_of_a_network(precision)) > 0
        assert compiled[-1].get_property("INFERENCE_PRECISION_HINT").to_string() == hint


@pytest.mark.parametrize(
    ("error", "of_network"),
    [
        (
            RuntimeError("Check 'false' failed at x.cpp:151:\nNo conversion rule found for operations: y"),
            True,
        ),
        (
            RuntimeError("Check 'false' failed at x.cpp:151:\nConversion is failed for y: std::bad_alloc"),
            False,
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("basic_ios::clear: iostream error"), False),
        (RuntimeError("could not create a primitive"), False),
        (MemoryError(), False),
        (OSError(28, "No space left on device"), False),
        (KeyError("kwargs"), True),
    ],
)
def test_only_openvino_s_own_checks_are_certain_to_be_of_the_network(
    error: Exception, *, of_network: bool
) -> None:
    assert runtime.is_of_network(error) is of_network


def test_a_full_disk_is_no_fault_of_the_network(tmp_path: Path) -> None:
    build = runtime.operations()
    given = build.parameter([1, 16], np.float32)
    product = build.matmul(given, build.constant(np.ones((16, 4000), np.float32)), False, False)
    network = runtime.Model([product], [given], "wide")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RuntimeError) as raised:
            runtime.save_model(network, tmp_path / "wide.xml", compress_to_fp16=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert runtime.is_of_machine(raised.value)
    assert not runtime.is_of_network(raised.value)
