"""OpenVINO's runtime, imported once and without its telemetry.

Owns the only import of openvino, and what this machine can do with it. Knows no model.
"""

import logging
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

# `import openvino` would send a report to a web analytics service (openvino.tools.ovc, telemetry.send_event);
# so would NNCF. A service must not do that without its owner's knowledge, and without a network it costs a
# thread that waits. None makes the import fail, which both handle.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # the documented way to block an import

import openvino  # noqa: E402 - what stands above must come first
from openvino import Layout, Model, PartialShape, Type, save_model  # noqa: E402

__all__ = [
    "HINTS",
    "VERSION",
    "Layout",
    "Model",
    "PartialShape",
    "Type",
    "capabilities",
    "compile_for_cpu",
    "convert_torch",
    "core",
    "gains_from_bf16",
    "is_of_machine",
    "is_of_network",
    "lacks",
    "operations",
    "preprocessor",
    "read",
    "saturates_int8",
    "save_model",
]

_LOG: Final = logging.getLogger(__name__)

VERSION: Final[str] = openvino.__version__

HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""INFERENCE_PRECISION_HINT for each precision. The floats of an int8 network stay float32."""

_BYTES: Final = ("i8", "u8")
_LARGEST_BYTE: Final = 255
_LARGEST_WEIGHT: Final = 127

_NEEDS: Final = {"bf16": "BF16", "fp16": "FP16"}
"""The entry of OPTIMIZATION_CAPABILITIES without which OpenVINO would silently use another precision."""


_RUNS: Final = 10
_WORTH: Final = 1.2
"""How many times faster bf16 has to be to be chosen: its answers are less exact."""

_OF_MACHINE: Final = (
    *("alloc", "out of memory", "temporarily unavailable"),
    *("iostream error", "No space left", "Cannot load library", "zero-fill pages"),
)
"""Parts of what OpenVINO and PyTorch say when memory or disk space is short, as seen under limits of them."""


@cache
def core() -> openvino.Core:
    """The runtime's one core."""
    return openvino.Core()


def read(front_end: str, path: Path) -> Any:  # noqa: ANN401 - an openvino.Model
    """Read a network with the front end of that name: onnx, tflite, tf or paddle. Raises RuntimeError."""
    from openvino import frontend  # noqa: PLC0415 - only importing a network needs it

    reader = frontend.FrontEndManager().load_by_framework(front_end)
    try:
        return reader.convert(reader.load(str(path)))
    except (
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    ) as error:  # OpenVINO's only errors that are not RuntimeErrors
        raise RuntimeError(str(error)) from error


def is_of_machine(error: BaseException) -> bool:
    """Whether what OpenVINO or PyTorch raises may be this machine's doing: out of memory, or of disk space.

    Both raise RuntimeError for it, as for all else, so that only its words tell.
    """
    return isinstance(error, MemoryError | OSError) or any(word in str(error) for word in _OF_MACHINE)


def is_of_network(error: BaseException) -> bool:
    """Whether an error is certain to be the network's: one of OpenVINO's own checks refused it.

    So is one that isn't a RuntimeError: then the translation in Python failed.
    """
    cause = error.__cause__ or error
    return not is_of_machine(cause) and (not isinstance(cause, RuntimeError) or "Check '" in str(cause))


def convert_torch(network: Any, example: Any) -> Any:  # noqa: ANN401 - an openvino.Model
    """Convert a network of PyTorch; `example` is a tensor that it takes.

    Raises RuntimeError; MemoryError and OSError as they are.
    """
    from openvino import convert_model  # noqa: PLC0415 - only importing a network needs it

    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    try:
        return convert_model(network, example_input=example)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # it runs the network's own Python code, and the front end has many errors
        raise RuntimeError(str(error)) from error
    finally:
        # It raises the root logger's level to ERROR, and leaves it so where it fails.
        root.filters, root.handlers = before[1:]
        root.setLevel(before[0])


def compile_for_cpu(model: Any, precision: str, **properties: object) -> Any:  # noqa: ANN401
    """Compile a network, which this may change, so that it computes in `precision`. Raises RuntimeError.

    OpenVINO computes the quantised parts of a graph in integers whatever INFERENCE_PRECISION_HINT says. Only
    int8 allows that: the other precisions round each number where the file says so, and multiply floats.
    """
    properties["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    if precision != "int8":
        _widen_weights(model)
        properties["LP_TRANSFORMS_MODE"] = False  # low precision transformations
    return core().compile_model(model, "CPU", properties)


def _widen_weights(model: Any) -> None:  # noqa: ANN401
    """Turn 8-bit weights into float32 constants.

    The CPU plugin would keep them, but not every processor has a kernel that widens them on the fly: "could
    not create a primitive descriptor for the inner product" on CPUs that have only AVX2.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convert" or not node.get_output_element_type(0).is_real():
            continue
        weights = node.input_value(0).get_node()
        if weights.get_type_name() != "Constant" or weights.get_element_type().get_type_name() not in _BYTES:
            continue
        wide = operations().constant(np.asarray(weights.get_data(), np.float32))
        widened = operations().convert(wide, node.get_output_element_type(0).get_type_name())
        for taker in node.output(0).get_target_inputs():
            taker.replace_source_output(widened.output(0))


def preprocessor(model: Any) -> Any:  # noqa: ANN401
    """The object that adds preprocessing steps to a model's graph."""
    from openvino.preprocess import PrePostProcessor  # noqa: PLC0415 - likewise

    return PrePostProcessor(model)


def operations() -> Any:  # noqa: ANN401
    """The operations that graphs are built from."""
    from openvino import opset13  # noqa: PLC0415 - likewise

    return opset13


@cache
def capabilities() -> frozenset[str]:
    """What the CPU computes natively, according to OpenVINO: FP32, BF16 (AMX or AVX512_BF16), FP16, INT8."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@cache
def gains_from_bf16() -> bool:
    """Whether a network is faster in bf16 than in fp32 on this CPU; computes a piece of one to find out.

    AMX makes ResNet50 2.5 times as fast. Where a CPU has AVX512_BF16 without AMX, or a virtual machine hides
    AMX, OpenVINO says BF16 as well, and took 1.6 times as long as in fp32. The piece takes 0.2 s, once.
    """
    if "BF16" not in capabilities():
        return False
    try:
        pieces = {precision: _piece_of_a_network(precision) for precision in ("fp32", "bf16")}
    except RuntimeError as error:
        _LOG.warning("OpenVINO lists BF16 and can't run a piece of a network in it: %s", error)
        return False
    least = dict.fromkeys(pieces, float("inf"))
    for _ in range(_RUNS):  # in turn: a busy machine slows both
        for precision, run in pieces.items():
            least[precision] = min(least[precision], _cpu_s(run))
    return least["fp32"] > _WORTH * least["bf16"]


def _piece_of_a_network(precision: str) -> Callable[[], object]:
    """A 3 x 3 and a 1 x 1 convolution of ResNet50, on a quarter of its pixels, by one thread."""
    build = operations()
    piece = given = build.parameter([1, 64, 28, 28], np.float32)
    for filters, side in ((64, 3), (256, 1)):
        weights = build.constant(np.full((filters, 64, side, side), 1 / 64, np.float32))
        pads = [side // 2] * 2
        piece = build.relu(build.convolution(piece, weights, [1, 1], pads, pads, [1, 1]))
    model = Model([piece], [given], "piece")
    request = compile_for_cpu(model, precision, NUM_STREAMS=1, INFERENCE_NUM_THREADS=1).create_infer_request()
    numbers = np.ones(given.shape, np.float32)
    request.infer([numbers])
    return lambda: request.infer([numbers])


def _cpu_s(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


@cache
def saturates_int8() -> bool:
    """Whether sums of 8-bit products overflow on this CPU; computes one to find out (50 ms, once).

    Without VNNI (before AVX-VNNI or AVX512_VNNI), two products are added in 16 bits, and the sum saturates:
    2 * 255 * 127 becomes 32767. OPTIMIZATION_CAPABILITIES has INT8 nevertheless.
    """
    build = operations()
    picture = build.parameter([1, 16, 4, 4], np.float32)
    weights = np.full((16, 16, 3, 3), _LARGEST_WEIGHT, np.float32)
    product = build.convolution(
        _rounded(picture, 0, _LARGEST_BYTE),
        _rounded(build.constant(weights), -_LARGEST_WEIGHT, _LARGEST_WEIGHT),
        strides=[1, 1],
        pads_begin=[0, 0],
        pads_end=[0, 0],
        dilations=[1, 1],
    )
    network = compile_for_cpu(Model([product], [picture], "saturation"), "int8", NUM_STREAMS=1)
    (sums,) = network([np.full((1, 16, 4, 4), _LARGEST_BYTE, np.float32)]).values()
    return bool(sums.min() < 0.9 * 16 * 9 * _LARGEST_BYTE * _LARGEST_WEIGHT)


def _rounded(numbers: Any, low: float, high: float) -> Any:  # noqa: ANN401
    """Quantise numbers, so that OpenVINO computes with them in 8 bits."""
    bounds = [operations().constant(np.float32(bound)) for bound in (low, high)]
    return operations().fake_quantize(numbers, *bounds, *bounds, int(high - low) + 1)


def lacks(precision: str) -> str:
    """Why this CPU can't compute in `precision`, as a clause; empty if it can."""
    needed = _NEEDS.get(precision)
    if needed is None or needed in capabilities():
        return ""
    return f"this CPU does not compute in {precision} (it has {', '.join(sorted(capabilities()))})"
