"""The TensorFlow engine: a Keras network traced once into a graph, with its normalisation.

Owns the only use of TensorFlow. `Model.predict` is never called: in a loop it is slower (24 images a
second against 43, ResNet50 on 2 cores) and its maintainers advise against it (tensorflow#44711).
"""

import os
from typing import Any, Final

# Both are read by the imports below; a user's keras.json may name another backend.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server import sources
from model_server.catalogue import ModelSpec, Normalise
from model_server.engines import Outputs


class TensorFlowEngine:
    """One network as a `tf.function` of uint8 (None, height, width, channels), traced exactly once."""

    name: Final = "tensorflow"
    precision: Final = "fp32"

    def __init__(self, spec: ModelSpec, *, batch_size: int) -> None:
        network = sources.build(spec)
        taken = tuple(network.input_shape[1:])
        if any(size not in (None, ours) for size, ours in zip(taken, spec.input.shape, strict=True)):
            raise ModelUnavailable(
                f"{spec.name}: the network takes pictures of (height, width, channels) {taken}, "
                f"but model.toml says {spec.input.shape}."
            )
        normalise = spec.normalise

        def run(batch: Any) -> Any:  # noqa: ANN401
            return tf.nest.flatten(network(_normalised(batch, normalise), training=False))

        signature = tf.TensorSpec((None, *spec.input.shape), tf.uint8)
        self._function = tf.function(run, input_signature=[signature], autograph=False)
        # Calling the concrete function skips the look-up among traces.
        self._call = self._function.get_concrete_function()
        for size in warm_sizes(batch_size):
            self.predict(np.zeros((size, *spec.input.shape), np.uint8))

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        outputs = self._call(tf.convert_to_tensor(batch))
        return tuple(np.asarray(output, dtype=np.float32) for output in outputs)

    @property
    def traces(self) -> int:
        """How often the network was traced: 1, or something recompiles in every call."""
        return int(self._function.experimental_get_tracing_count())


def warm_sizes(batch_size: int) -> list[int]:
    """The sizes to run before serving, the largest first, so that memory is taken once.

    The ends are enough: the graph takes any size through one dynamic shape, and a size that it never saw
    costs no more than its repeats (ResNet50 on 2 cores, first and later runs in ms: 3 pictures 146 and
    133, 15: 612 and 566, 31: 1071 and 1064).
    """
    return sorted({1, batch_size}, reverse=True)


def _normalised(batch: Any, normalise: Normalise) -> Any:  # noqa: ANN401
    """uint8 to what the network wants, in float32 (see ModelSpec.normalise)."""
    pixels = tf.cast(batch, tf.float32)
    match normalise:
        case "none":
            return pixels
        case "unit":
            return pixels / 255.0
        case "tf" | "torch" | "caffe":
            return keras.applications.imagenet_utils.preprocess_input(pixels, mode=normalise)
