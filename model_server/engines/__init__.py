"""Engines: what turns a batch of uint8 pictures into the network's outputs.

Owns the interface and the loading; choice.py owns the choice, each engine's module one runtime, check.py
whether it computes what plain Keras does. An engine knows nothing of jobs, labels or Redis.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.choice import EngineChoice

Outputs = tuple[NDArray[np.float32], ...]
"""The network's outputs, each float32 with the batch as its first axis."""


class Engine(Protocol):
    """A network, compiled and ready. It takes one call at a time."""

    @property
    def name(self) -> str:
        """The engine's name, as ENGINE spells it."""
        ...

    @property
    def precision(self) -> str:
        """What the network computes in: fp32, bf16, fp16 or int8."""
        ...

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run the network once on uint8 (N, height, width, channels), normalisation included.

        Any exception means that it failed on this batch; the worker then looks for the picture at fault.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is to run."""

    batch_size: int
    """The most pictures in one call: it is warmed up to that."""
    cache: Path
    """The folder that keeps converted networks (store.py)."""
    threads: int = 0
    """Threads of one call; 0: the engine's own choice, one a core."""


def load(spec: ModelSpec, choice: EngineChoice, options: EngineOptions) -> Engine:
    """Load `spec` as chosen, check it against plain Keras, and warm it at every size it will see.

    Raises ModelUnavailable with the reason.
    """
    if spec.is_imported and choice.engine != "openvino":
        raise ModelUnavailable(
            f"{spec.name}: ENGINE={choice.engine} runs networks of Keras; this one ({spec.weights}) is none, "
            "and runs on OpenVINO. ENGINE=auto chooses that for such models alone."
        )
    if choice.precision == "int8" and choice.engine != "openvino":
        raise ModelUnavailable(f"{spec.name}: PRECISION=int8 needs ENGINE=openvino, not {choice.engine}.")
    try:
        # Imported only here: each takes from a quarter of a second to several.
        match choice.engine:
            case "openvino":
                from model_server.engines.openvino.engine import OpenVINOEngine  # noqa: PLC0415

                return OpenVINOEngine(spec, choice.precision, options)
            case "tensorflow":
                from model_server.engines.keras.tensorflow import TensorFlowEngine  # noqa: PLC0415

                return TensorFlowEngine(spec, choice.precision, options)
            case "jax":
                from model_server.engines.keras.jax import JaxEngine  # noqa: PLC0415

                return JaxEngine(spec, choice.precision, options)
    except ModuleNotFoundError as error:
        raise ModelUnavailable(
            f"{spec.name}: ENGINE={choice.engine} needs the Python package {error.name!r}, which is not "
            "installed."
        ) from error
    raise ValueError(f"there is no engine {choice.engine!r}")
