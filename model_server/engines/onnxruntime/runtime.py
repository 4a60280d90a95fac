"""ONNX Runtime's sessions: a graph on a provider, its arrays bound to that provider's device.

Owns the only import of onnxruntime, and the refusal to run anywhere else than on the provider that was asked
for. Knows no model. Host memory is not pinned: ONNX Runtime's Python interface has no allocator for that with
its CUDA provider.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state

from model_server.engines.onnxruntime.providers import CPU, Provider

onnxruntime.disable_telemetry_events()

ERRORS: Final[tuple[type[Exception], ...]] = (
    RuntimeError,
    ValueError,
    *(
        each
        for each in vars(onnxruntime_pybind11_state).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ),
)
"""What ONNX Runtime raises: its own errors have no base but Exception."""

_ERRORS_ALONE: Final = 3
"""The severity from which it logs, on stderr."""

_TYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    **{f"tensor({kind})": kind for kind in ("uint8", "int8", "int16", "int32", "int64", "bool")},
}


class ProviderUnavailable(Exception):
    """ONNX Runtime could not start the provider that was asked for."""


@dataclass(frozen=True, slots=True)
class InputDescription:
    """An input of a graph."""

    name: str
    shape: tuple[int | None, ...]
    """None: any size."""
    dtype: str
    """The name of NumPy's type; of others, ONNX Runtime's own name."""


def available() -> tuple[str, ...]:
    """The providers that the installed build has, whether or not their libraries and devices are there."""
    return tuple(onnxruntime.get_available_providers())


class Session:
    """A graph, ready to run on a provider. Raises ERRORS and ProviderUnavailable."""

    def __init__(
        self, graph: Path | bytes, provider: Provider, *, threads: int = 0, is_plain: bool = False
    ) -> None:
        """`threads` of one call, 0: one per core. `is_plain`: each operation as the file has it."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ALONE
        # Never its own choice: with that it also ties threads to cores, which a container may not have.
        options.intra_op_num_threads = threads or cores()
        # Threads that wait would spin, and keep cores from the web tier and from this process' other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The floats of a quantised file stay floats, rounded where it says so: that is what fp32 means here.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        if is_plain:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if provider.name != CPU:
            # Finds CUDA and cuDNN in the packages that onnxruntime-gpu[cuda,cudnn] installs.
            onnxruntime.preload_dlls()
        content = graph if isinstance(graph, bytes) else str(graph)
        self._session: Any = onnxruntime.InferenceSession(
            content, options, providers=provider.chain, enable_fallback=0
        )
        running = self._session.get_providers()
        if running[0] != provider.name:
            raise ProviderUnavailable(f"it runs on {running[0]}")
        self._device = provider.device
        self.inputs = [
            InputDescription(
                each.name,
                tuple(size if isinstance(size, int) else None for size in each.shape),
                _TYPES.get(each.type, each.type),
            )
            for each in self._session.get_inputs()
        ]
        self.outputs: list[str] = [each.name for each in self._session.get_outputs()]

    def on_device(self, numbers: Any) -> Any:  # noqa: ANN401 - an OrtValue
        """Run it and leave its first output, an OrtValue, on the device. `numbers`: see `run`."""
        return self._run(numbers, self.outputs[:1], self._device).get_outputs()[0]

    def run(self, numbers: Any, outputs: Sequence[str]) -> list[NDArray[Any]]:  # noqa: ANN401
        """Run it and return these outputs. `numbers` are an array, or what `on_device` of another returns."""
        return list(self._run(numbers, outputs, "cpu").copy_outputs_to_cpu())

    def _run(self, numbers: Any, outputs: Sequence[str], device: str) -> Any:  # noqa: ANN401
        # A new one for each call: it would write the next batch, of another size, into this one's outputs.
        binding = self._session.io_binding()
        if isinstance(numbers, np.ndarray):
            binding.bind_cpu_input(self.inputs[0].name, np.ascontiguousarray(numbers))
        else:
            binding.bind_ortvalue_input(self.inputs[0].name, numbers)
        for name in outputs:
            binding.bind_output(name, device)
        self._session.run_with_iobinding(binding)
        return binding


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def reason(error: BaseException) -> str:
    """ONNX Runtime's message in one line, without its number and the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = " ".join(lines[:3]) or type(error).__name__
    return words.split(" : ", 3)[-1].rstrip(".") if words.startswith("[ONNXRuntimeError]") else words
