"""The TensorFlow engine: a Keras network as one graph with its weights as constants, and its normalisation.

Owns the only use of TensorFlow. `Model.predict` is never called: in a loop it is slower (24 images a
second against 51, ResNet50 on 2 cores) and its maintainers advise against it (tensorflow#44711).
"""

import os
import threading
from typing import Any, Final

# Both are read by the imports below; a user's keras.json may name another backend.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import numpy as np
from numpy.typing import NDArray

from model_server.engines.keras.quiet_tensorflow import without_plots

with without_plots():
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import batch_sizes
from model_server.engines.check import agreement
from model_server.engines.engine import EngineOptions, Outputs
from model_server.engines.keras.network import KerasNetwork

_CONFIGURING: Final = threading.Lock()
"""Models of one process load at the same time, and TensorFlow's threads can be set only once."""


class TensorFlowEngine:
    """One network of uint8 (N, height, width, channels).

    On CPUs it is a frozen graph: 51 images a second against 43 as a `tf.function` (ResNet50, 2 cores). On a
    GPU XLA compiles it, one program for each shape: hence `buckets`.
    """

    name: Final = "tensorflow"

    def __init__(
        self, spec: ModelSpec, precision: str, options: EngineOptions, *, with_xla: bool | None = None
    ) -> None:
        self.precision = precision
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        _configure(threads=options.threads, precision=precision)
        network = KerasNetwork(spec)
        reference = network.reference()
        self.outputs = reference.names
        network.compute_in(precision)
        self.buckets: tuple[int, ...] = ()
        """The batch sizes that the network is compiled for; empty if any size runs unpadded."""
        if has_gpu if with_xla is None else with_xla:
            self.buckets = batch_sizes.sizes(options.batch_size)
            self._call: Any = graph(network, jit_compile=True)
        else:
            self._call = frozen(network)
        for size in reversed(self.buckets or warm_sizes(options.batch_size)):
            self._run(np.zeros((size, *spec.input.shape), np.uint8))
        agreement.require(spec, self.name, precision, reference, self.predict)

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        return batch_sizes.run(batch, self.buckets, self._run) if self.buckets else self._run(batch)

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        outputs = tf.nest.flatten(self._call(tf.convert_to_tensor(batch)))
        return tuple(np.asarray(output, dtype=np.float32) for output in outputs)


def graph(network: KerasNetwork, *, jit_compile: bool = False) -> Any:  # noqa: ANN401
    """A concrete function of what the network takes, any number of them, with variables, traced exactly once.

    `jit_compile`: by XLA, at the first call of each size.
    """

    def run(batch: Any) -> Any:  # noqa: ANN401
        return network.activated(network.model(network.normalised(batch), training=False))

    shape, dtype = network.takes
    signature = tf.TensorSpec((None, *shape), dtype)
    function = tf.function(run, input_signature=[signature], autograph=False, jit_compile=jit_compile or None)
    # Calling the concrete function skips the look-up among traces.
    return function.get_concrete_function()


def frozen(network: KerasNetwork) -> Any:  # noqa: ANN401
    """The same function with the variables as constants, which fold into the operations that use them."""
    return convert_variables_to_constants_v2(graph(network))


def warm_sizes(batch_size: int) -> tuple[int, ...]:
    """The sizes to run before serving, so that memory is allocated beforehand.

    The smallest and the largest are enough: the graph takes any size through one dynamic shape, and the first
    run of a size costs no more than later ones (ResNet50 on 2 cores, first and later runs in ms: 3 images 146
    and 133, 15: 612 and 566, 31: 1071 and 1064).
    """
    return tuple(sorted({1, batch_size}))


def _configure(*, threads: int, precision: str) -> None:
    with _CONFIGURING:
        if threads and tf.config.threading.get_intra_op_parallelism_threads() != threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Without this, float32 on NVIDIA's Ampere and newer is TF32, with 10 bits of mantissa.
        tf.config.experimental.enable_tensor_float_32_execution(precision != "fp32")
