"""What an engine is: a network that is compiled and ready, on one runtime.

Owns the interface; loading.py loads one. An engine knows nothing about jobs, labels or Redis.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.hooks import HookOptions

Outputs = tuple[NDArray[np.float32], ...]
"""The network's outputs, each float32 with the batch as its first axis."""


@dataclass(frozen=True, slots=True)
class OutputNames:
    """What the outputs of a network are called in its file."""

    served: tuple[str, ...] = ()
    """In the order of `Outputs`."""
    available: tuple[str, ...] = ()
    """Every output of the file with its shape, served or not."""


class NotConvertible(ModelUnavailable):
    """OpenVINO can't convert the network; PyTorch, which it is of, can run it."""

    def __init__(self, message: str, *, is_lasting: bool = True) -> None:
        """`is_lasting`: the file itself is why. Else the machine may be, and another attempt may succeed."""
        super().__init__(message)
        self.is_lasting = is_lasting


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

    @property
    def outputs(self) -> OutputNames:
        """What its outputs are called."""
        ...

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """Normalise uint8 (N, *InputSpec.shape) and run the network on it once.

        Any exception means that the network failed on this batch; the worker then looks for the bad image.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs."""

    batch_size: int
    """The most images in one call; the engine is warmed up for that size."""
    cache: Path
    """The folder of converted networks (store.py)."""
    threads: int = 0
    """The threads of one call; 0: the engine's own choice, one per core."""
    provider: str = "auto"
    """What ONNX Runtime runs on: auto, cpu, cuda or tensorrt."""
    hooks: HookOptions = field(default_factory=HookOptions)
    """How the model's own code runs, if it has some."""
