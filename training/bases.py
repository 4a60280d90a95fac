"""The network that retraining starts from: one of keras.applications, or one saved by Keras.

Owns where it comes from, what it takes (size and normalisation) and where it is cut off. Downloads as the
model server does: a server that is silent fails within seconds, with the ways out.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np

from broker.errors import first_line
from broker.messages import Fit, InputSpec
from model_server.catalogue.model_toml import NormalisationName
from model_server.engines.keras import sources
from training.base_options import BaseError, BaseOptions, toml_beside
from training.network_input import NetworkInput

SIZE: Final = 224
"""Of a network of keras.applications, where none is named: what most of them learnt ImageNet at."""

_NAMED: Final[tuple[NormalisationName, ...]] = ("none", "unit", "tf", "torch", "caffe")


@dataclass(frozen=True, slots=True)
class Base:
    """A network without its head: of pictures as `taken` says to float32 (N, features)."""

    name: str
    weights: str
    """`imagenet`, `none` or the name of a file."""
    network: Any
    """A keras.Model."""
    taken: NetworkInput


def load(wanted: BaseOptions) -> Base:
    """Return the base. Raises BaseError."""
    if wanted.weights.endswith(".keras"):
        return _saved(wanted, Path(wanted.weights))
    return _application(wanted)


def _application(wanted: BaseOptions) -> Base:
    constructor = getattr(keras.applications, wanted.name, None)
    if not callable(constructor):
        known = sorted(name for name in dir(keras.applications) if name[0].isupper())
        raise BaseError(f"keras.applications has no network {wanted.name!r}; it has {', '.join(known)}")
    normalise = _normalise_of(constructor)
    if wanted.normalise not in (None, normalise):
        raise BaseError(f"{wanted.name} needs pictures normalised as {normalise!r}")
    size = wanted.size or SIZE
    options = {"include_top": False, "pooling": "avg", "input_shape": (size, size, 3)}
    try:
        network = constructor(weights=None, **options)
    except ValueError as error:
        raise BaseError(f"{wanted.name} can't be built for {size} x {size}: {first_line(error)}") from error
    try:
        if wanted.weights == "imagenet":
            with sources.download():
                network = constructor(weights="imagenet", **options)
        elif wanted.weights != "none":
            network.load_weights(wanted.weights)
    except Exception as error:  # keras.utils.get_file raises Exception itself; h5py and zipfile their own
        raise BaseError(_no_weights(wanted, first_line(error))) from error
    weights = wanted.weights if wanted.weights in ("imagenet", "none") else Path(wanted.weights).name
    return Base(
        wanted.name,
        weights,
        network,
        NetworkInput(InputSpec(size, size, 3, wanted.fit or Fit.CROP), normalise),
    )


def _no_weights(wanted: BaseOptions, reason: str) -> str:
    failure = f"{wanted.weights!r} does not give the weights of {wanted.name} without its top ({reason})"
    if wanted.weights == "imagenet":
        failure = f"the ImageNet weights of {wanted.name} could not be downloaded ({reason})"
    return (
        f"{failure}. Three ways out: let this machine download them and start again; --weights PATH for a "
        f"file that you have, a whole network (.keras) or the weights that Keras publishes as notop (.h5); "
        "--weights none to learn from your pictures alone, which takes many more of them"
    )


def _normalise_of(constructor: Any) -> NormalisationName:  # noqa: ANN401
    """Which of model.toml's normalisations is the network's own `preprocess_input`, found by trying."""
    own = sys.modules[constructor.__module__].preprocess_input
    sample = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3)).astype(np.uint8)
    wanted = np.asarray(own(sample.astype(np.float32)))
    spec = InputSpec(4, 4, 3, Fit.CROP)
    for normalise in _NAMED:
        if np.allclose(wanted, NetworkInput(spec, normalise).numbers(sample), atol=1e-3):
            return normalise
    raise BaseError(f"{constructor.__name__} normalises pictures in a way that model.toml can't express")


def _saved(wanted: BaseOptions, path: Path) -> Base:
    """A network that classifies, less its last layer; the model.toml beside it says what it takes."""
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # h5py, zipfile and Keras each raise their own
        raise BaseError(f"Keras can't load {path}: {first_line(error)}") from error
    features = _features(network)
    if features is None:
        raise BaseError(f"{path} does not end in a Dense layer, which is what a new head would replace")
    beside = toml_beside(path)
    normalise = wanted.normalise or (beside.normalise if beside else None)
    if normalise is None:
        raise BaseError(f"no model.toml beside {path} says how its pictures are normalised: set --normalise")
    height, width, channels = network.input_shape[1:]
    size = wanted.size or width or SIZE
    if (height or size, width or size) != (size, size) or channels not in (1, 3):
        raise BaseError(f"{path} takes pictures of (height, width, channels) {network.input_shape[1:]}")
    spec = InputSpec(size, size, channels, wanted.fit or Fit.CROP)
    if beside and wanted.fit in (None, beside.input.fit) and beside.input.width == size:
        spec = replace(beside.input, height=size)
    network = keras.Model(network.inputs[0], features)
    taken = NetworkInput(spec, normalise, beside.order if beside else "rgb")
    return Base(path.stem, path.name, network, taken)


def _features(network: Any) -> Any | None:  # noqa: ANN401
    """What feeds the head of a network that classifies: its last layer's input, before any dropout."""
    last = network.layers[-1]
    if not isinstance(last, keras.layers.Dense) or len(network.inputs) != 1 or last.input.ndim != 2:
        return None
    before = network.layers[-2]
    return before.input if isinstance(before, keras.layers.Dropout) else last.input
