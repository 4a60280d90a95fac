"""A Keras network with its normalisation, for whichever backend Keras runs on, and plain Keras as reference.

Owns the normalisation and the mixed precision. The engine that imports this has named Keras' backend before.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue import detection_layout
from model_server.catalogue.model_spec import ModelSpec
from model_server.catalogue.model_toml import Normalisation
from model_server.engines import Outputs
from model_server.engines.check import agreement, drawn_pictures, final_operation
from model_server.engines.check.agreement import Reference
from model_server.engines.keras import sources


class KerasNetwork:
    """The network of `spec`, built and its weights loaded. Raises ModelUnavailable with the reason."""

    def __init__(self, spec: ModelSpec) -> None:
        self.model: Any = sources.build(spec)
        self._spec = spec
        taken = tuple(self.model.input_shape[1:])
        self._is_flat = len(taken) == 2 and spec.input.channels == 1
        if self._is_flat:
            taken = (*taken, 1)
        if len(taken) != 3:
            raise ModelUnavailable(
                f"{spec.name}: the network takes {taken} and not pictures of (height, width, channels). Save "
                f"it with the step between: keras.Sequential([keras.Input({spec.input.shape}), "
                f"keras.layers.Reshape({taken}), network])."
            )
        if any(size not in (None, ours) for size, ours in zip(taken, spec.input.shape, strict=True)):
            raise ModelUnavailable(
                f"{spec.name}: the network takes pictures of (height, width, channels) {taken}, "
                f"but model.toml says {spec.input.shape}."
            )

    def normalised(self, batch: Any) -> Any:  # noqa: ANN401 - a tensor of the backend
        """uint8 to what the network wants, in float32 (see ModelSpec.normalise)."""
        pixels = normalised(batch, self._spec)
        return keras.ops.squeeze(pixels, axis=-1) if self._is_flat else pixels

    def activated(self, outputs: Any) -> list[Any]:  # noqa: ANN401
        """The network's outputs in float32, made probabilities where model.toml says how."""
        numbers = [keras.ops.cast(each, "float32") for each in keras.tree.flatten(outputs)]
        match self._spec.activation:
            case "softmax":
                numbers = [keras.ops.softmax(each, axis=-1) for each in numbers]
            case "sigmoid":
                numbers = [keras.ops.sigmoid(each) for each in numbers]
        if agreement.is_of_second(self._spec, tuple(numbers[0].shape[1:])):
            return [keras.ops.concatenate([1 - numbers[0], numbers[0]], axis=-1)]
        return numbers

    def reference(self) -> Reference:
        """Plain Keras, called layer by layer, on the check's pictures. Raises ModelUnavailable.

        Call it before `compute_in`.
        """
        drawn = drawn_pictures.draw(self._spec.input)
        # By twos: ten at once leave 1.2 GB more resident (ResNet50, eager TensorFlow).
        parts = [self.plain(drawn[at : at + 2]) for at in range(0, len(drawn), 2)]
        numbers = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
        problem = _misfit(self._spec, [each.shape[1:] for each in numbers])
        if problem:
            raise ModelUnavailable(f"{self._spec.name}: {problem}.")
        if self._spec.task == "detection":
            return Reference(drawn, numbers)
        agreement.require_logits(self._spec, numbers[0], final_operation.of_keras(self.model.outputs[0]))
        outputs = _arrays(self.activated(numbers))
        agreement.require_probabilities(self._spec, outputs[0])
        return Reference(drawn, outputs)

    def plain(self, batch: NDArray[np.uint8]) -> Outputs:
        """The network's outputs for uint8 (N, height, width, channels), compiled by nobody, not activated."""
        return _arrays(keras.tree.flatten(self.model(self.normalised(batch), training=False)))

    def compute_in(self, precision: str) -> None:
        """Let the layers compute in `precision`, but not those that give outputs; weights stay float32.

        A detector's heads, before its last layer, stay in float32 as well: in 16 bits a side of a box would
        be off by a third of a percent.

        Mixed precision (Micikevicius et al. 2018). Not the global policy: that reaches only layers which are
        made after it, and a saved network names the policy of each of its layers.
        """
        if precision == "fp32":
            return
        policy = keras.DTypePolicy({"bf16": "mixed_bfloat16", "fp16": "mixed_float16"}[precision])
        last = {id(output._keras_history.operation) for output in keras.tree.flatten(self.model.outputs)}
        for layer in self.model._flatten_layers(include_self=False):
            if id(layer) not in last and not getattr(layer, "is_head", False):
                layer.dtype_policy = policy


def _arrays(tensors: list[Any]) -> Outputs:
    """Tensors of the backend as float32 arrays."""
    return tuple(np.asarray(keras.ops.convert_to_numpy(each), np.float32) for each in tensors)


def _misfit(spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
    """Why outputs of these shapes do not fit the labels; empty if they do."""
    classes = len(spec.labels)
    if spec.detection is not None:
        return detection_layout.misfit(spec.detection, shapes, classes)
    if shapes[0] == (classes,) or agreement.is_of_second(spec, shapes[0]):
        return ""
    return f"the network's output for a picture is {shapes[0]}, but there are {classes} labels"


def normalised(batch: Any, spec: ModelSpec) -> Any:  # noqa: ANN401
    """uint8 (N, height, width, channels) of any kind to a float32 tensor, as ModelSpec.normalise says."""
    pixels = keras.ops.cast(batch, "float32")
    if spec.order == "bgr":
        pixels = keras.ops.flip(pixels, axis=-1)
    match spec.normalise:
        case "none":
            return pixels
        case "unit":
            return pixels / 255.0
        case "tf" | "torch" | "caffe":
            return keras.applications.imagenet_utils.preprocess_input(pixels, mode=spec.normalise)
        case Normalisation(mean=mean, std=std):
            return (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
