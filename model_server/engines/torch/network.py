"""A network of PyTorch in fp32: uint8 images in, the numbers of every output as arrays.

Owns how its outputs are flattened and named, and running it. sources.py reads it from its file.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

# Read when PyTorch loads its OpenMP: a thread that waits for the others then sleeps. By default it spins, and
# what else runs on the machine keeps those others waiting: 30 ms instead of 200 to 380 for 20 convolutions of
# 8 small images (2 cores with two more busy processes).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import normalisation

_TRANSLATED: Final = 2
"""Images in the example that a network is traced with: with 1, a tracer may take the batch for a constant."""


class PyTorchNetwork:
    """A module of PyTorch, in evaluation mode and float32, that takes (N, channels, height, width).

    If the model's own code prepares its input, it takes what that makes, in any shape.
    """

    def __init__(
        self,
        spec: ModelSpec,
        module: Any,  # noqa: ANN401
        program: Any = None,  # noqa: ANN401
        prepared: NDArray[Any] | None = None,
    ) -> None:
        """`prepared` are the check's pictures, if the model's own code prepares them."""
        self.module = module
        """An nn.Module, a ScriptModule or the module of an exported program."""
        self.program = program
        """The torch.export.ExportedProgram in float32, if it is one."""
        self.names: list[list[str]] = []
        """The names of each output, from its first run on: the key of a dict, the field of a NamedTuple."""
        self._spec = spec
        self._numbers = normalisation.of(spec)
        self._is_prepared = prepared is not None
        input_ = spec.input
        shape = (input_.channels, input_.height, input_.width)
        self.takes = np.zeros(shape, np.float32) if prepared is None else _taken(np.zeros_like(prepared[0]))
        """Zeros of the shape and the type of its input for one picture."""

    def of_other_pictures(self, spec: ModelSpec) -> "PyTorchNetwork":
        """The same network for the pictures of another spec."""
        return PyTorchNetwork(spec, self.module, self.program)

    def outputs(self, batch: NDArray[Any]) -> list[NDArray[np.float32]]:
        """All outputs for pictures as jobs have them, or prepared, while it is loaded.

        Raises ModelUnavailable.
        """
        try:
            return self.run(batch)
        except ModelUnavailable:
            raise
        except Exception as error:  # the network's own code, and PyTorch's guards, each raise their own
            sizes = " x ".join(map(str, (len(batch), *self.takes.shape)))
            cure = (
                f"preprocess in hooks.py returns {self.takes.shape} of {self.takes.dtype} for a picture"
                if self._is_prepared
                else "Correct width, height and channels in model.toml"
            )
            raise ModelUnavailable(
                f"{self._spec.name}: PyTorch can't run it on {sizes} numbers ({reason(error)}). {cure}, or "
                "save the network so that it takes a batch of pictures."
            ) from error

    def run(self, batch: NDArray[Any]) -> list[NDArray[np.float32]]:
        """The same while it serves: raises whatever the network raises."""
        numbers = _taken(batch) if self._is_prepared else self._numbers(batch).transpose(0, 3, 1, 2)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what its author's code is warned of is the author's
            output = self.module(torch.from_numpy(np.ascontiguousarray(numbers)))
        leaves = list(self._leaves("", output))
        self.names = [[name] if name else [] for name, _ in leaves]
        return [leaf.detach().to("cpu", torch.float32).numpy() for _, leaf in leaves]

    def _leaves(self, name: str, output: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
        """The tensors of an output, each with its name."""
        if isinstance(output, torch.Tensor):
            yield name, output
        elif isinstance(output, Mapping):
            for key, value in output.items():
                yield from self._leaves(str(key), value)
        elif isinstance(output, (tuple, list)):
            fields = getattr(output, "_fields", [name] * len(output))
            for field, value in zip(fields, output, strict=True):
                yield from self._leaves(field, value)
        elif output is not None:  # as the outputs of GoogLeNet that it has in training alone
            raise ModelUnavailable(
                f"{self._spec.name}: the network gives a {type(output).__name__}. A tensor is needed, or a "
                "dict, a tuple or a NamedTuple of tensors."
            )


def _taken(batch: NDArray[Any]) -> NDArray[Any]:
    """Prepared arrays as a network in float32 takes them: floats of any width, integers as they are."""
    return batch.astype(np.float32, copy=False) if batch.dtype.kind == "f" else batch


def for_translation(network: PyTorchNetwork) -> tuple[Any, Any]:
    """What OpenVINO translates, and an example of what it takes; its outputs are in the network's order.

    Raises RuntimeError where the network's own code can't be traced; MemoryError and OSError as they are.
    """
    example = torch.from_numpy(np.stack([network.takes] * _TRANSLATED))
    if network.program is not None:
        return network.program, None
    if isinstance(network.module, torch.jit.ScriptModule):
        return network.module, example
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Unlike OpenVINO, which would trace it itself, without PyTorch's check of the trace: that refuses
            # torchvision's Transformers. What the trace computes is compared with the network anyway.
            flat = _Flat(network).eval()
            return torch.jit.trace(flat, example, check_trace=False, strict=False), example
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the network's own code raises anything
        raise RuntimeError(reason(error)) from error


class _Flat(torch.nn.Module):  # type: ignore[misc] # PyTorch is not in the environment that is checked
    """The network with a tuple of its outputs: a tracer takes no dict."""

    def __init__(self, network: PyTorchNetwork) -> None:
        super().__init__()
        self.module = network.module
        self._flat = network._leaves

    def forward(self, numbers: Any) -> tuple[Any, ...]:  # noqa: ANN401
        return tuple(leaf for _, leaf in self._flat("", self.module(numbers)))


def reason(error: Exception) -> str:
    """A message of PyTorch's in one line: the last line of a TorchScript traceback says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    is_script = "TorchScript" in lines[0]
    line = lines[-1] if is_script else lines[0]
    return line.removeprefix("RuntimeError: ").rstrip(".")
