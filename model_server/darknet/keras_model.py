"""Builds a Darknet network, with its weights, as a Keras model.

Owns what each kind of layer is in Keras. Knows no syntax and no file format.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from keras import layers, ops

from model_server.darknet import cfg, weights
from model_server.darknet.detections import Detections
from model_server.darknet.layers import (
    AveragePool,
    Convolution,
    Layer,
    MaxPool,
    Network,
    Route,
    Same,
    Shortcut,
    Softmax,
    Upsample,
    Yolo,
)
from model_server.darknet.network import plan
from model_server.darknet.weights import Kernel

_LOWEST: Final = -3e38
"""Less than what any layer gives, and a number in bf16 too."""

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "leaky": lambda x: ops.leaky_relu(x, negative_slope=0.1),
    "relu": ops.relu,
    "relu6": ops.relu6,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "swish": ops.silu,
    "logistic": ops.sigmoid,
}


def build(cfg_path: Path, weights_path: Path, size: tuple[int, int]) -> Any:  # noqa: ANN401 - a keras.Model
    """The network of the two files for images of (height, width). Raises cfg.DarknetError, OSError.

    A detector's outputs are those of Detections; another network's is that of its last layer, flattened.
    """
    network = plan(cfg.read(cfg_path), size)
    return assemble(network, weights.read(weights_path, network))


def assemble(network: Network, kernels: dict[int, Kernel]) -> Any:  # noqa: ANN401
    """The network with these kernels."""
    picture = keras.Input(network.input)
    outputs: dict[int, Any] = {-1: picture}
    heads = {layer.sources[0] for layer in network.detectors}
    for number, layer in enumerate(network.layers):
        inputs = [outputs[source] for source in layer.sources]
        if isinstance(layer.kind, Convolution):
            outputs[number] = _convolution(
                layer, layer.kind, kernels[number], inputs[0], is_head=number in heads
            )
        elif not isinstance(layer.kind, Yolo):
            outputs[number] = _plain(layer, inputs)
    detectors = network.detectors
    if not detectors:
        return keras.Model(picture, layers.Flatten()(outputs[len(network.layers) - 1]))
    yolos = [layer.kind for layer in detectors if isinstance(layer.kind, Yolo)]
    decode = Detections(yolos, [layer.gives for layer in detectors], network.input[:2])
    return keras.Model(picture, decode([outputs[layer.sources[0]] for layer in detectors]))


def _convolution(layer: Layer, kind: Convolution, kernel: Kernel, tensor: Any, *, is_head: bool) -> Any:  # noqa: ANN401
    if kind.size == 1 or (kind.stride == 1 and kind.size % 2 and kind.before == kind.size // 2):
        # The padding is then that of Keras' "same", and needs no layer of its own.
        padding = "same" if kind.before else "valid"
        if kind.size == 1 and kind.before:
            tensor, padding = layers.ZeroPadding2D(kind.before)(tensor), "valid"
    else:
        # With a stride, Keras pads an even image on one side only, Darknet on both.
        padding = "valid"
        tensor = layers.ZeroPadding2D(kind.before)(tensor) if kind.before else tensor
    channels = layer.takes[2]
    options = {"strides": kind.stride, "padding": padding}
    if kind.groups == 1:
        output = _loaded(layers.Conv2D(kind.filters, kind.size, **options), kernel, tensor, is_head=is_head)
    elif kind.groups == channels:
        multiplier = kind.filters // channels
        depthwise = layers.DepthwiseConv2D(kind.size, depth_multiplier=multiplier, **options)
        shape = (kind.size, kind.size, channels, multiplier)
        reshaped = Kernel(kernel.weights.reshape(shape), kernel.bias)
        output = _loaded(depthwise, reshaped, tensor, is_head=is_head)
    else:
        # Group by group: TensorFlow has no grouped convolution on CPUs.
        groups = zip(
            ops.split(tensor, kind.groups, axis=-1),
            np.split(kernel.weights, kind.groups, axis=-1),
            np.split(kernel.bias, kind.groups),
            strict=True,
        )
        filters = kind.filters // kind.groups
        output = ops.concatenate(
            [
                _loaded(layers.Conv2D(filters, kind.size, **options), Kernel(part, bias), x, is_head=is_head)
                for x, part, bias in groups
            ],
            axis=-1,
        )
    return _activated(output, kind.activation)


def _loaded(convolution: Any, kernel: Kernel, tensor: Any, *, is_head: bool) -> Any:  # noqa: ANN401
    output = convolution(tensor)
    convolution.set_weights([kernel.weights, kernel.bias])
    convolution.is_head = is_head  # engines/keras/network.py leaves heads in float32
    return output


def _plain(layer: Layer, inputs: list[Any]) -> Any:  # noqa: ANN401
    """The output of a layer without weights."""
    first = inputs[0]
    match layer.kind:
        case MaxPool() as kind:
            return _max_pool(layer, kind, first)
        case Shortcut(activation=activation):
            return _activated(layers.Add()(inputs), activation)
        case Route(groups=groups, group=group):
            if groups > 1:
                inputs = [ops.split(tensor, groups, axis=-1)[group] for tensor in inputs]
            return layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        case Upsample(stride=stride, scale=scale):
            upsampled = layers.UpSampling2D(stride, interpolation="nearest")(first)
            return upsampled if scale == 1 else upsampled * scale
        case AveragePool():
            return layers.GlobalAveragePooling2D(keepdims=True)(first)
        case Softmax():
            return layers.Softmax(axis=(1, 2, 3))(first)
        case Same():
            return first
    raise TypeError(f"{layer.name} is not a plain layer; this is a bug")


def _max_pool(layer: Layer, kind: MaxPool, tensor: Any) -> Any:  # noqa: ANN401
    after = [
        max(0, (gives - 1) * kind.stride + kind.size - takes - kind.before)
        for gives, takes in zip(layer.gives[:2], layer.takes[:2], strict=True)
    ]
    pool = layers.MaxPooling2D(kind.size, kind.stride, "valid")
    if kind.before == 0 and not any(after):
        return pool(tensor)
    if kind.stride == 1 and kind.before == (kind.size - 1) // 2 and layer.gives == layer.takes:
        return layers.MaxPooling2D(kind.size, 1, "same")(tensor)
    edges = ((0, 0), (kind.before, after[0]), (kind.before, after[1]), (0, 0))
    return pool(ops.pad(tensor, edges, constant_values=_LOWEST))


def _activated(x: Any, activation: str) -> Any:  # noqa: ANN401
    return x if activation == "linear" else _ACTIVATIONS[activation](x)
