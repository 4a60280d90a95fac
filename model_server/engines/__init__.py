"""Engines: what turns a batch of uint8 pictures into the network's outputs.

Owns the interface and the choice; each engine's module owns one runtime. An engine knows nothing of
jobs, labels or Redis.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue import ModelSpec

Outputs = tuple[NDArray[np.float32], ...]
"""The network's outputs, each float32 with the batch as its first axis."""


class Engine(Protocol):
    """A network, compiled and ready."""

    @property
    def name(self) -> str:
        """The engine's name, as ENGINE spells it."""
        ...

    @property
    def precision(self) -> str:
        """What the network computes in: `fp32`."""
        ...

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """Run the network once on uint8 (N, height, width, channels), normalisation included.

        Any exception means that it failed on this batch; the worker then looks for the picture at fault.
        """
        ...


def load(spec: ModelSpec, name: str, *, batch_size: int) -> Engine:
    """Load `spec` into the engine of that name (`auto`: the best there is) and warm it.

    Raises ModelUnavailable with the reason.
    """
    from model_server.engines.tensorflow import TensorFlowEngine  # noqa: PLC0415 - seconds long

    if name not in ("auto", TensorFlowEngine.name):
        raise ValueError(f"there is no engine {name!r}")
    engine = TensorFlowEngine(spec, batch_size=batch_size)
    outputs = engine.predict(np.zeros((1, *spec.input.shape), np.uint8))
    if outputs[0].shape != (1, len(spec.labels)):
        raise ModelUnavailable(
            f"{spec.name}: the network's output for a picture is {outputs[0].shape[1:]}, "
            f"but there are {len(spec.labels)} labels."
        )
    return engine


def engine_name(name: str) -> str:
    """The engine that `load` would take, known before anything is loaded."""
    return "tensorflow" if name == "auto" else name
