"""Loads a model's engine: the network on the runtime that was chosen, and the model's own code around it.

Owns which runtime runs which kind of network, and what to do where its packages are not there. choice.py owns
the choice, check/ whether an engine computes what plain Keras computes.
"""

import logging
from typing import Any, Final

from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import hooked
from model_server.engines.choice import EngineChoice
from model_server.engines.engine import Engine, EngineOptions, NotConvertible
from model_server.engines.steps import StepsEngine

_LOG = logging.getLogger(__name__)

INSTALL_JAX: Final = ".venv/bin/python -m pip install jax"


def load(spec: ModelSpec, choice: EngineChoice, options: EngineOptions) -> Engine:
    """Load `spec` as chosen, check it against plain Keras, and warm it up; with its own code, if it has some.

    Raises ModelUnavailable with the reason.
    """
    if choice.engine == "steps":
        return StepsEngine()
    if spec.hooks is None and choice.engine != "python":
        return _network(spec, choice, options, None)
    return hooked.load(spec, options, lambda prepared: _network(spec, choice, options, prepared))


def _network(
    spec: ModelSpec, choice: EngineChoice, options: EngineOptions, prepared: NDArray[Any] | None
) -> Engine:
    """The network alone; `prepared` are the check's pictures, if preprocess in hooks.py makes its input."""
    _require_engine_for(spec, choice.engine)
    if prepared is not None and choice.engine not in ("openvino", "torch", "onnxruntime"):
        raise ModelUnavailable(
            f"{spec.name}: preprocess in hooks.py does not run with ENGINE={choice.engine}. Set "
            'ENGINE=openvino, or write kind = "python": its predict prepares pictures itself.'
        )
    if choice.precision == "int8" and choice.engine != "openvino":
        raise ModelUnavailable(f"{spec.name}: PRECISION=int8 needs ENGINE=openvino, not {choice.engine}.")
    try:
        # Imported here, because each takes from a quarter of a second to several.
        match choice.engine:
            case "openvino":
                from model_server.engines.openvino.engine import OpenVINOEngine  # noqa: PLC0415

                try:
                    return OpenVINOEngine(spec, choice.precision, options, prepared)
                except NotConvertible as error:
                    if choice.fallback != "torch":
                        raise ModelUnavailable(
                            f"{error.message} ENGINE=torch runs it with PyTorch, in fp32."
                        ) from error
                    until = "" if error.is_lasting else " until the next start, which tries again"
                    _LOG.warning("%s PyTorch runs it%s.", error.message, until)
                return _torch(spec, "fp32", options, prepared)
            case "torch":
                return _torch(spec, choice.precision, options, prepared)
            case "onnxruntime":
                return _onnxruntime(spec, choice.precision, options, prepared)
            case "tensorflow":
                from model_server.engines.keras.tensorflow import TensorFlowEngine  # noqa: PLC0415

                return TensorFlowEngine(spec, choice.precision, options)
            case "jax":
                from model_server.engines.keras.jax import JaxEngine  # noqa: PLC0415

                return JaxEngine(spec, choice.precision, options)
    except ModuleNotFoundError as error:
        cure = f" Install it: {INSTALL_JAX}" if error.name == "jax" else ""
        raise ModelUnavailable(
            f"{spec.name}: ENGINE={choice.engine} needs the Python package {error.name!r}, which is not "
            f"installed.{cure}"
        ) from error
    raise ValueError(f"unknown engine {choice.engine!r}")


def _torch(spec: ModelSpec, precision: str, options: EngineOptions, prepared: NDArray[Any] | None) -> Engine:
    from model_server.engines.torch import sources  # noqa: PLC0415 - likewise

    # What is wrong with the file is reported before PyTorch is missed.
    sources.find(spec)
    with sources.installed(spec):
        from model_server.engines.torch.engine import TorchEngine  # noqa: PLC0415

    return TorchEngine(spec, precision, options, prepared)


def _onnxruntime(
    spec: ModelSpec, precision: str, options: EngineOptions, prepared: NDArray[Any] | None
) -> Engine:
    from model_server.engines.onnxruntime import source  # noqa: PLC0415 - likewise

    # As for PyTorch: the file first.
    source.find(spec)
    with source.installed(spec):
        from model_server.engines.onnxruntime.engine import OnnxRuntimeEngine  # noqa: PLC0415

    return OnnxRuntimeEngine(spec, precision, options, prepared)


def _require_engine_for(spec: ModelSpec, engine: str) -> None:
    """Raise ModelUnavailable if this engine never runs networks of the model's kind."""
    if engine == "torch" and not spec.is_torch:
        raise ModelUnavailable(
            f"{spec.name}: ENGINE=torch runs only networks of PyTorch (kind = torchscript, torch_export or "
            "torch_network). ENGINE=auto chooses it for those that OpenVINO can't convert."
        )
    if engine == "onnxruntime" and not spec.is_onnx:
        raise ModelUnavailable(
            f"{spec.name}: ENGINE=onnxruntime runs only ONNX files (kind = onnx). Export the network to "
            "ONNX, or leave ENGINE out."
        )
    others = {"torch": spec.is_torch, "onnxruntime": spec.is_onnx}
    if spec.is_imported and engine != "openvino" and not others.get(engine, False):
        needed = "OpenVINO"
        if spec.is_torch or spec.is_onnx:
            needed += " or PyTorch" if spec.is_torch else " or ONNX Runtime"
        raise ModelUnavailable(
            f"{spec.name}: ENGINE={engine} runs only Keras networks, and {spec.weights} needs "
            f"{needed}. ENGINE=auto chooses OpenVINO for such models alone."
        )
