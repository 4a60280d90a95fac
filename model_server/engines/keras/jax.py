"""The JAX engine: a Keras network on Keras' own JAX backend, compiled by XLA.

Owns the only use of JAX, which is optional: `pip install jax`, or `jax[cuda12]` for a GPU. JAX compiles a
program for each shape, so batches are padded to a few sizes.
"""

import os
from typing import Any, Final

# Read by the imports below; a user's keras.json may name another backend.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import batch_sizes
from model_server.engines.check import agreement
from model_server.engines.engine import EngineOptions, Outputs
from model_server.engines.keras.network import KerasNetwork


class JaxEngine:
    """One network of uint8 (N, height, width, channels), its weights as arguments on the device."""

    name: Final = "jax"

    def __init__(self, spec: ModelSpec, precision: str, options: EngineOptions) -> None:
        if keras.backend.backend() != "jax":
            raise ModelUnavailable(f"{spec.name}: Keras runs on {keras.backend.backend()} in this process.")
        self.precision = precision
        self.buckets = batch_sizes.sizes(options.batch_size)
        """The batch sizes that the network is compiled for."""
        network = KerasNetwork(spec)
        reference = network.reference()
        self.outputs = reference.names
        network.compute_in(precision)
        model = network.model

        def run(weights: Any, state: Any, batch: Any) -> Any:  # noqa: ANN401
            outputs, _ = model.stateless_call(weights, state, network.normalised(batch), training=False)
            return network.activated(outputs)

        self._call = jax.jit(run)
        self._weights = [variable.value for variable in model.trainable_variables]
        self._state = [variable.value for variable in model.non_trainable_variables]
        for size in reversed(self.buckets):
            self._run(np.zeros((size, *spec.input.shape), np.uint8))
        agreement.require(spec, self.name, precision, reference, self.predict)

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        return batch_sizes.run(batch, self.buckets, self._run)

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        # Fetched together: one wait for the device, not one for each output.
        outputs = jax.device_get(self._call(self._weights, self._state, batch))
        return tuple(np.asarray(output) for output in outputs)
