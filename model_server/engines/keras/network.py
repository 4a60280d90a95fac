"""A Keras network with its normalisation, on whichever backend Keras runs; and plain Keras as the reference.

Owns the normalisation and the mixed precision. The engine that imports this module names Keras' backend
first.
"""

import math
from dataclasses import replace
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import KerasFile, ModelSpec
from model_server.catalogue.model_toml import Normalisation
from model_server.engines import output_choice, served_outputs
from model_server.engines.check import drawn_pictures, final_operation
from model_server.engines.check.agreement import Reference
from model_server.engines.engine import Outputs
from model_server.engines.keras import own_preprocessing, sources
from model_server.engines.output_choice import NetworkOutput
from pictures import fixed_point


class KerasNetwork:
    """The network of `spec`, built, with its weights loaded. Raises ModelUnavailable with the reason."""

    def __init__(self, spec: ModelSpec, prepared: NDArray[Any] | None = None) -> None:
        """Build it. `prepared` are the check's pictures, if the model's own code prepares them."""
        self.model: Any = _widened(sources.build(spec))
        self._spec = spec
        self._drawn: NDArray[Any] = drawn_pictures.draw(spec.input) if prepared is None else prepared
        self._is_prepared = prepared is not None
        shape = tuple(self.model.input_shape[1:]) if self._is_prepared else _picture_shape(spec, self.model)
        self._is_flat = len(shape) == 2 and not self._is_prepared
        if self._is_flat:
            shape = (*shape, 1)
        if self._is_prepared:
            self._require_prepared(shape)
        elif any(
            size not in (None, ours) for size, ours in zip(shape, spec.input.network_shape, strict=True)
        ):
            raise ModelUnavailable(
                f"{spec.name}: the network takes pictures of (height, width, channels) {shape}, "
                f"but model.toml says {spec.input.network_shape}."
            )
        if isinstance(spec.source, KerasFile) and not self._is_prepared:
            own_preprocessing.require_once(spec, self.model)
        self._choice = output_choice.choose(spec, self._outputs())
        if self._choice.numbers != list(range(len(self.model.outputs))):
            chosen = [self.model.outputs[at] for at in self._choice.numbers]
            self.model = keras.Model(self.model.inputs, chosen)

    def _require_prepared(self, shape: tuple[int | None, ...]) -> None:
        """Raise ModelUnavailable unless the network takes what the model's own code prepares."""
        prepared, _ = self.takes
        if len(shape) != len(prepared) or any(
            size not in (None, ours) for size, ours in zip(shape, prepared, strict=True)
        ):
            raise ModelUnavailable(
                f"{self._spec.name}: preprocess in hooks.py returns {prepared} for a picture, but the "
                f"network takes {shape}."
            )

    def _outputs(self) -> list[NetworkOutput]:
        """The network's outputs for one picture."""
        shapes = [output.shape for output in self.plain(self._drawn[:1])]
        names = output_names(self.model)
        return [NetworkOutput((name,), shape) for name, shape in zip(names, shapes, strict=True)]

    def normalised(self, batch: Any) -> Any:  # noqa: ANN401 - a tensor of the backend
        """Images as jobs have them to the float32 that the network takes (see ModelSpec.normalise)."""
        if self._is_prepared:
            return keras.ops.cast(batch, self.model.inputs[0].dtype)
        pixels = normalised(batch, self._spec)
        return keras.ops.squeeze(pixels, axis=-1) if self._is_flat else pixels

    def activated(self, outputs: Any) -> list[Any]:  # noqa: ANN401
        """The network's outputs in float32, with the activation of model.toml."""
        numbers = [keras.ops.cast(output, "float32") for output in keras.tree.flatten(outputs)]
        if not self._spec.task.gives_probabilities:
            return numbers
        if len(numbers[0].shape) > 2:
            numbers = [keras.ops.reshape(numbers[0], (-1, math.prod(numbers[0].shape[1:])))]
        match self._spec.activation:
            case "softmax":
                numbers = [keras.ops.softmax(output, axis=-1) for output in numbers]
            case "sigmoid":
                numbers = [keras.ops.sigmoid(output) for output in numbers]
        if self._choice.is_of_second:
            return [keras.ops.concatenate([1 - numbers[0], numbers[0]], axis=-1)]
        return numbers

    def reference(self) -> Reference:
        """The outputs of plain Keras, layer by layer, for the check's images. Raises ModelUnavailable.

        Call it before `compute_in`.
        """
        drawn = self._drawn
        # Two at a time: ten at once leave 1.2 GB more resident (ResNet50, eager TensorFlow).
        parts = [self.plain(drawn[at : at + 2]) for at in range(0, len(drawn), 2)]
        ending = final_operation.of_keras(self.model.outputs[0])
        # The model has no other outputs any more.
        choice = replace(self._choice, numbers=list(range(len(self.model.outputs))))
        return served_outputs.reference(self._spec, drawn, parts, choice, ending)

    @property
    def takes(self) -> tuple[tuple[int, ...], str]:
        """The shape of its input for one picture, and its type."""
        return self._drawn.shape[1:], self._drawn.dtype.name

    def plain(self, batch: NDArray[Any]) -> Outputs:
        """The network's outputs for uint8 (N, *InputSpec.shape), not compiled and not activated."""
        return _arrays(keras.tree.flatten(self.model(self.normalised(batch), training=False)))

    def compute_in(self, precision: str) -> None:
        """Let all layers except those that give outputs compute in `precision`; weights stay float32.

        A detector's heads, before its last layer, stay in float32 as well: in 16 bits a side of a box would
        be off by a third of a percent.

        This is mixed precision (Micikevicius et al. 2018). The global policy would not do: it applies only to
        layers that are made after it, and a saved network names the policy of each of its layers.
        """
        if precision == "fp32":
            return
        policy = keras.DTypePolicy({"bf16": "mixed_bfloat16", "fp16": "mixed_float16"}[precision])
        last = {id(output._keras_history.operation) for output in keras.tree.flatten(self.model.outputs)}
        for layer in self.model._flatten_layers(include_self=False):
            if id(layer) not in last and not getattr(layer, "is_head", False):
                layer.dtype_policy = policy


_NARROW: Final = ("bfloat16", "float16")


def output_names(model: Any) -> list[str]:  # noqa: ANN401 - a keras.Model
    """The names of the layers that give a model's outputs; with a number where one layer gives several.

    Sequential has no `output_names`.
    """
    names = [str(output._keras_history.operation.name) for output in model.outputs]
    return [name if names.count(name) == 1 else f"{name}:{at}" for at, name in enumerate(names)]


def _picture_shape(spec: ModelSpec, model: Any) -> tuple[int | None, ...]:  # noqa: ANN401
    """The shape of the picture that the network takes; without an axis for the channels if it is grey.

    Raises ModelUnavailable if it takes something else.
    """
    if len(model.inputs) != 1:
        names = ", ".join(tensor.name for tensor in model.inputs)
        raise ModelUnavailable(
            f"{spec.name}: the network has {len(model.inputs)} inputs ({names}), but only a picture is given "
            "to it. Save a network with the picture as its only input."
        )
    shape = tuple(model.inputs[0].shape[1:])
    ours = tuple(spec.input.network_shape)
    layer = ""
    if shape == (math.prod(ours),):
        layer = f"Reshape({shape})"
    elif shape == (ours[2], *ours[:2]) and shape != ours:
        layer = "Permute((3, 1, 2))"
    elif len(shape) == 3 or (len(shape) == 2 and ours[2] == 1):
        return shape
    problem = f"{spec.name}: the network takes {shape}, not pictures of (height, width, channels)"
    if layer:
        raise ModelUnavailable(
            f"{problem}. Save it with a layer that turns them: keras.Sequential([keras.Input({ours}), "
            f"keras.layers.{layer}, network])."
        )
    raise ModelUnavailable(f"{problem}, but model.toml says {ours}.")


def _widened(model: Any) -> Any:  # noqa: ANN401
    """The network with all layers computing in float32, if it was saved in 16 bits.

    In mixed precision its weights are in float32 already. Those of a policy of 16 bits alone are numbers that
    float32 has too: the reference is then what they stand for, not what each layer's rounding leaves of it.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if not policies.isdisjoint(_NARROW):
        config = _in_float32(keras.saving.serialize_keras_object(model))
        weights = [np.asarray(each, np.float32) for each in model.get_weights()]
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        model.set_weights(weights)
    for layer in model._flatten_layers():
        if layer.dtype_policy.name in ("mixed_bfloat16", "mixed_float16"):
            layer.dtype_policy = keras.DTypePolicy("float32")
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            layer.finalize_state()  # it computes with copies of its weights, in the type that it had
    return model


def _in_float32(config: Any) -> Any:  # noqa: ANN401
    """A network's configuration with float32 in place of each type of 16 bits."""
    if isinstance(config, list | tuple):
        return [_in_float32(each) for each in config]
    if not isinstance(config, dict):
        return config
    named = "name" if config.get("class_name") == "DTypePolicy" else "dtype"
    wide = {key: _in_float32(value) for key, value in config.items()}
    inner = wide["config"] if named == "name" else wide
    if isinstance(inner.get(named), str) and inner[named] in _NARROW:
        inner[named] = "float32"
    return wide


def _arrays(tensors: list[Any]) -> Outputs:
    """The backend's tensors as float32 arrays."""
    return tuple(np.asarray(keras.ops.convert_to_numpy(tensor), np.float32) for tensor in tensors)


def normalised(batch: Any, spec: ModelSpec) -> Any:  # noqa: ANN401
    """Normalise uint8 (N, *InputSpec.shape) to a float32 tensor, as ModelSpec.normalise says."""
    pixels = keras.ops.cast(batch, "float32")
    if spec.input.keeps_fractions:
        pixels = fixed_point.value(*keras.ops.split(pixels, 2, axis=-1))
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
