"""Which engine runs a model, and in what precision, from the settings and what is installed.

Owns that decision, which is made once at the start, before anything is loaded: the card shows it from the
first moment. Loads neither TensorFlow nor JAX, and no network. An engine or a precision that was named is
never replaced; if it is not available, loading says why.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import OwnNetwork
from model_server.catalogue.pipeline_toml import StepModels

_DEVICES: Final = Path("/dev")
_GPU_PATTERNS: Final = ("nvidia[0-9]*", "dxg")
"""The device files of NVIDIA's driver: on Linux and in its containers, and under WSL."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and a precision, as ENGINE and PRECISION spell them, never `auto`."""

    engine: str
    precision: str
    fallback: str = ""
    """The engine for a network that this one can't convert; empty: it is refused."""


def choose_for(spec: ModelSpec, engine: str, precision: str, *, keras_backend: str) -> EngineChoice:
    """Resolve `auto` for a model: OpenVINO runs imported networks, in int8 if their file is quantised.

    Where int8 would overflow, such a file runs in fp32, which gives the same answers. Where numbers are the
    answer it is fp32 too: 16 bits would leave a regressor three digits. A network of
    PyTorch that OpenVINO can't convert is run by PyTorch, which only the conversion can find out. One that
    hooks.py makes runs as that says, and a pipeline runs nothing.
    """
    if isinstance(spec.source, OwnNetwork):
        return EngineChoice("python", "own")
    if isinstance(spec.source, StepModels):
        return EngineChoice("steps", "own")
    if spec.is_torch and engine == "auto" and _is_installed("openvino"):
        # PyTorch's engine has fp32 alone; a precision that was named is never replaced.
        fallback = "torch" if precision in ("auto", "fp32") else ""
        return replace(choose("openvino", precision, keras_backend=keras_backend), fallback=fallback)
    if spec.is_torch and engine == "auto":
        engine = "torch"
    elif spec.is_imported and engine == "auto":
        engine = "openvino"
    if spec.is_imported and precision == "auto" and engine == "openvino" and _is_installed("openvino"):
        from model_server.engines.openvino import quantised, runtime  # noqa: PLC0415 - they load OpenVINO

        if quantised.is_quantised(spec):
            precision = "fp32" if runtime.saturates_int8() else "int8"
    if precision == "auto" and spec.task.is_exact:
        precision = "fp32"
    return choose(engine, precision, keras_backend=keras_backend)


def choose(engine: str, precision: str, *, keras_backend: str) -> EngineChoice:
    """Resolve `auto`: OpenVINO on CPUs if it is installed, Keras' own backend on a GPU.

    ResNet50 on two cores: OpenVINO runs 1.2 times as many images as TensorFlow in fp32, and 2.5 times as many
    in bf16 with AMX. Which of the two is faster on this CPU is measured.
    """
    if engine == "auto":
        engine = "openvino" if _is_installed("openvino") and not has_gpu(keras_backend) else keras_backend
        if precision == "int8":
            engine = "openvino"
    if precision != "auto":
        return EngineChoice(engine, precision)
    if engine == "openvino":
        return EngineChoice(engine, _openvino_precision())
    if engine in ("torch", "onnxruntime"):
        return EngineChoice(engine, "fp32")
    # fp16 rather than bf16: tensor cores have had it since 2017, bf16 only since 2020, and it is more exact.
    return EngineChoice(engine, "fp16" if has_gpu(engine) else "fp32")


def has_gpu(keras_backend: str, devices: Path = _DEVICES) -> bool:
    """Whether there is a GPU, and this Keras backend is installed in a build that can use one."""
    if not has_nvidia_gpu(devices):
        return False
    return can_use_gpu(keras_backend, (package.name for package in importlib.metadata.distributions()))


def has_nvidia_gpu(devices: Path = _DEVICES) -> bool:
    """Whether this machine, or this container, shows an NVIDIA GPU."""
    return any(device for pattern in _GPU_PATTERNS for device in devices.glob(pattern))


def can_use_gpu(keras_backend: str, installed: Iterable[str]) -> bool:
    """Whether one of the `installed` packages is the backend's build for GPUs."""
    names = {name.lower().replace("_", "-") for name in installed}
    if keras_backend == "jax":
        return any(name.startswith("jax-cuda") for name in names)
    return "tensorflow" in names and "tensorflow-cpu" not in names


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _openvino_precision() -> str:
    if not _is_installed("openvino"):
        return "fp32"  # loading will say that it is missing
    from model_server.engines.openvino import runtime  # noqa: PLC0415 - a fifth of a second, paid only if it is used

    return "bf16" if runtime.gains_from_bf16() else "fp32"
