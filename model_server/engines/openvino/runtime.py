"""OpenVINO's runtime, imported once and without its telemetry.

Owns the only import of openvino, and what this machine can do with it. Knows no model.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

# `import openvino` would report itself to a web analytics service over the network (openvino.tools.ovc,
# telemetry.send_event); so would NNCF. A service does not do that behind its owner's back, and where there
# is no network it costs a thread that waits. None makes its import fail, which both provide for.
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
    "core",
    "lacks",
    "operations",
    "preprocessor",
    "read",
    "save_model",
]

VERSION: Final[str] = openvino.__version__

HINTS: Final = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
"""INFERENCE_PRECISION_HINT for a precision. What an int8 network leaves in floats stays float32."""

_NEEDS: Final = {"bf16": "BF16", "fp16": "FP16"}
"""The entry of OPTIMIZATION_CAPABILITIES without which a precision would silently be another."""


@cache
def core() -> openvino.Core:
    """The runtime's one core."""
    return openvino.Core()


def read(front_end: str, path: Path) -> Any:  # noqa: ANN401 - an openvino.Model
    """Read a network by the front end of that name: onnx, tflite, tf or paddle. Raises RuntimeError."""
    from openvino import frontend  # noqa: PLC0415 - only an import needs it

    reader = frontend.FrontEndManager().load_by_framework(front_end)
    try:
        return reader.convert(reader.load(str(path)))
    except (
        frontend.GeneralFailure,
        frontend.InitializationFailure,
        frontend.NotImplementedFailure,
        frontend.OpConversionFailure,
        frontend.OpValidationFailure,
    ) as error:  # these alone of OpenVINO's are no RuntimeError
        raise RuntimeError(str(error)) from error


def preprocessor(model: Any) -> Any:  # noqa: ANN401
    """What puts steps before a model's input into its graph."""
    from openvino.preprocess import PrePostProcessor  # noqa: PLC0415 - likewise

    return PrePostProcessor(model)


def operations() -> Any:  # noqa: ANN401
    """The operations that graphs are built of."""
    from openvino import opset13  # noqa: PLC0415 - likewise

    return opset13


@cache
def capabilities() -> frozenset[str]:
    """What the CPU computes natively: FP32, BF16 (AMX or AVX512_BF16), FP16, INT8, as OpenVINO says."""
    return frozenset(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def lacks(precision: str) -> str:
    """Why this CPU can't compute in `precision`, as a clause; empty if it can."""
    needed = _NEEDS.get(precision)
    if needed is None or needed in capabilities():
        return ""
    return f"this CPU does not compute in {precision} (it has {', '.join(sorted(capabilities()))})"
