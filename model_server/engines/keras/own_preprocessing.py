"""What a Keras network says of its own preprocessing, held against normalise in model.toml.

Owns the reading of a network's first layers and of the rule that keras.applications publishes, and the
refusals. False alarms would be worse than silence, so only what no training explains is refused. Runs no
network.
"""

import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import KerasApplication, ModelSpec
from model_server.catalogue.model_toml import NormalisationName
from model_server.engines import normalisation

_LOG = logging.getLogger(__name__)

_PASSED: Final = ("InputLayer", "Resizing", "CenterCrop", "Identity", "Dropout")
"""Layers that leave the numbers' range as it is; so do those whose name begins with Random."""

_SPAN: Final = (0.1, 300.0)
"""The least and the most that 0 to 255 may span once the network's own layers have rescaled it: rescaled
twice it spans 0.02, unscaled before a Normalization that was adapted to 0..1 it spans 1,000. Sound networks
have 1 to 255."""


def require_once(spec: ModelSpec, model: Any) -> None:  # noqa: ANN401 - a keras.Model
    """Refuse a normalisation on top of the network's own, or one that its own needs and that is missing.

    Raises ModelUnavailable. A table of mean and deviation was written on purpose: it causes a warning.
    """
    numbers = normalisation.of(spec).of_pixels(normalisation.every_byte(spec.input.channels))
    path = _rescaled(model, numbers)
    after, layers = path.numbers, path.layers
    if not layers:
        return
    span = float(np.ptp(after, axis=(0, 1, 2)).max())
    given = f"{numbers.min():.3g} to {numbers.max():.3g}"
    if span < _SPAN[0] and spec.normalise != "none":
        cure = 'Write normalise = "none" in [input] of model.toml.'
        problem = f"normalises pixels itself (its layer {layers[0]!r}), but normalise gives it {given}"
    elif span > _SPAN[1]:
        cure = 'Write there the normalisation that it was trained with; "unit" makes 0 to 1.'
        problem = (
            f"was adapted to smaller numbers (its layer {layers[0]!r}) than normalise in model.toml gives "
            f"it, {given}"
        )
    else:
        return
    message = f"the network {problem}, of which it would make {after.min():.3g} to {after.max():.3g}. {cure}"
    if not isinstance(spec.normalise, str):
        _LOG.warning("%s: %s", spec.name, message)
        return
    raise ModelUnavailable(
        f"{spec.name}: {message} If it was trained so, write normalise as a table of mean and std."
    )


def require_published(spec: ModelSpec, source: KerasApplication, constructor: Any) -> None:  # noqa: ANN401
    """Refuse another normalisation than the network was published with; for the user's own weights, warn.

    Raises ModelUnavailable. Random weights were trained with none.
    """
    preprocess = getattr(sys.modules.get(constructor.__module__), "preprocess_input", None)
    if preprocess is None or source.weights == "random" or spec.input.channels != 3:
        return
    pixels = normalisation.every_byte(3)
    published = np.asarray(preprocess(pixels.astype(np.float32)), np.float64)
    if _is_same(spec, pixels, published):
        return
    names = get_args(NormalisationName)
    fitting = [
        name for name in names if _is_same(replace(spec, normalise=name, order="rgb"), pixels, published)
    ]
    if not fitting:
        return
    message = f'{source.name} takes pixels as normalise = "{fitting[0]}" makes them'
    if source.weights == "imagenet":
        raise ModelUnavailable(
            f"{spec.name}: {message}, by the rule that its weights were published with. Write that in "
            "[input] of model.toml, and leave order out."
        )
    _LOG.warning(
        "%s: %s, if your weights follow the rule of the published ones. If its answers are wrong, write that "
        "in [input] of model.toml.",
        spec.name,
        message,
    )


def _is_same(spec: ModelSpec, pixels: NDArray[np.uint8], published: NDArray[np.float64]) -> bool:
    return normalisation.is_same(normalisation.of(spec).of_pixels(pixels), published)


@dataclass(frozen=True, slots=True)
class _Path:
    """A way from a network's input as far as its numbers are known."""

    numbers: NDArray[np.float64]
    layers: tuple[str, ...] = ()
    """The names of the layers on it that rescale."""

    def scaled(self, operation: Any, factors: tuple[Any, Any]) -> "_Path | None":  # noqa: ANN401
        """The path with such an operation; None if its scale and offset are not for channels."""
        scale, offset = factors
        size = max(np.size(scale), np.size(offset))
        if np.ndim(scale) + np.ndim(offset) and size not in (1, self.numbers.shape[-1]):
            return None
        return _Path(self.numbers * scale + offset, (*self.layers, operation.name))


def _rescaled(model: Any, numbers: NDArray[np.float32]) -> _Path:  # noqa: ANN401
    """What the network's first layers make of numbers, if they make the same on every path from the input."""
    start = _Path(numbers.astype(np.float64))
    network = _graph(model)
    paths = [start] if network is None else [path for path, _ in _paths(network, network.inputs[0], start)]
    first, *others = paths or [start]
    return first if all(np.allclose(first.numbers, other.numbers) for other in others) else start


def _graph(model: Any) -> Any:  # noqa: ANN401
    """The network as a graph of operations, which a Sequential has within it; None if it is a class' code."""
    graph = getattr(model, "_functional", None) or model
    return graph if hasattr(graph, "_nodes_by_depth") else None


def _paths(network: Any, tensor: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:  # noqa: ANN401
    """Every path on from a tensor of the network; with each the network's output, if it arrives there."""
    if any(output is tensor for output in network.outputs):
        yield path, tensor
    # Not the nodes of its operations: those are shared with whatever other networks have the same layers.
    for node in itertools.chain.from_iterable(network._nodes_by_depth.values()):
        if any(given is tensor for given in node.input_tensors):
            yield from _through(network, node, tensor, path)


def _through(network: Any, node: Any, tensor: Any, path: _Path) -> Iterator[tuple[_Path, Any]]:  # noqa: ANN401
    """Every path on through an operation that takes the tensor."""
    operation, kind = node.operation, type(node.operation).__name__
    inner = _graph(operation)
    if inner is not None:
        place = next(at for at, given in enumerate(node.input_tensors) if given is tensor)
        for end, arrived in _paths(inner, inner.inputs[place], path):
            places = [at for at, output in enumerate(inner.outputs) if output is arrived]
            if places:
                yield from _paths(network, node.output_tensors[places[0]], end)
            else:
                yield end, None
        return
    longer: _Path | None = path
    if kind not in _PASSED and not kind.startswith("Random"):
        factors = _linear(operation, kind, node)
        longer = None if factors is None else path.scaled(operation, factors)
    if longer is None:
        yield path, None
    else:
        yield from _paths(network, node.output_tensors[0], longer)


def _linear(operation: Any, kind: str, node: Any) -> tuple[Any, Any] | None:  # noqa: ANN401
    """The scale and the offset of an operation that has them, in that place; else None."""
    if kind == "Rescaling":
        return np.asarray(operation.scale, np.float64), np.asarray(operation.offset, np.float64)
    if kind == "Normalization" and not operation.invert:
        mean, variance = (np.asarray(each, np.float64) for each in (operation.mean, operation.variance))
        deviation = np.maximum(np.sqrt(variance), 1e-7).reshape(-1)
        return 1 / deviation, -mean.reshape(-1) / deviation
    if kind not in ("Add", "Subtract", "Multiply", "TrueDivide", "Divide"):
        return None
    (_, other), keywords = _arguments(node)
    if keywords or not isinstance(other, (int, float, list, tuple, np.ndarray)):
        return None
    number = np.asarray(other, np.float64)
    linear: dict[str, tuple[Any, Any]] = {
        "Add": (1.0, number),
        "Subtract": (1.0, -number),
        "Multiply": (number, 0.0),
    }
    return linear.get(kind) or (1 / number, 0.0)


def _arguments(node: Any) -> tuple[tuple[Any, Any], dict[str, Any]]:  # noqa: ANN401
    """The two arguments of an operation's call; (None, None) if it had others."""
    arguments = node.arguments
    first = arguments.args if len(arguments.args) == 2 else (None, None)
    return first, dict(arguments.kwargs)
