"""The OpenVINO engine: a network from the store, compiled for this CPU, without TensorFlow or Keras.

Owns serving a converted network. Converts nothing itself: conversion.py does, at the first start.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable, first_line
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.check import agreement
from model_server.engines.engine import EngineOptions, Outputs
from model_server.engines.openvino import runtime
from model_server.engines.openvino.compiled_network import CHUNK, CompiledNetwork
from model_server.engines.openvino.conversion import converted, width_of
from model_server.engines.openvino.quantised import is_quantised
from model_server.engines.openvino.store import INT8, Store, StoreEntry, network_ingredients

FITS_16_BITS: Final = "fits_16_bits"
"""Key of an int8 network's manifest: its weights are small enough for CPUs whose sums saturate."""

PROCESSOR: Final = "processor"
"""Another: the processors that it was made for. "vnni", or "avx2": those without VNNI, so all of them."""


class OpenVINOEngine:
    """One network of uint8 (N, height, width, channels) through one dynamic shape and one infer request.

    It runs one request at a time in one stream: with PERFORMANCE_HINT=THROUGHPUT OpenVINO makes a stream for
    each core, and a request uses only one of them (29 images a second against 52). OpenVINO's own cache of
    compiled networks (CACHE_DIR) gains little: 0.03 s instead of 0.09 s at a start, and no memory.
    """

    name: Final = "openvino"

    def __init__(
        self,
        spec: ModelSpec,
        precision: str,
        options: EngineOptions,
        prepared: NDArray[Any] | None = None,
    ) -> None:
        """Convert it if need be, and check it. Raises ModelUnavailable.

        `prepared` is what the model's own code makes of the check's pictures, if it prepares them.
        """
        self.precision = precision
        lacking = runtime.lacks(precision)
        if lacking:
            raise ModelUnavailable(f"{spec.name}: PRECISION={precision} is not available: {lacking}.")
        entry = find(spec, precision, Store(options.cache), prepared)
        try:
            self._network = CompiledNetwork(entry.network, precision, threads=options.threads)
        except RuntimeError as error:  # whatever OpenVINO's C++ raises
            raise ModelUnavailable(f"{spec.name}: OpenVINO can't run it: {first_line(error)}.") from error
        reference = entry.reference()
        self.outputs = reference.names
        # The first run of a size takes 10 to 20 ms more than the next (ResNet50), so each size runs once
        # before serving.
        for size in range(min(CHUNK, options.batch_size), 0, -1):
            self.predict(np.zeros_like(reference.pictures[:1], shape=(size, *reference.pictures.shape[1:])))
        # At every start, not only at conversion: another processor or version has other kernels.
        agreement.require(spec, self.name, precision, reference, self.predict)

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        return self._network.predict(batch)


def find(spec: ModelSpec, precision: str, store: Store, prepared: NDArray[Any] | None = None) -> StoreEntry:
    """The network that serves `precision`. Raises ModelUnavailable."""
    is_exact = precision != "int8" or not runtime.saturates_int8()
    if precision != "int8" or is_quantised(spec):
        if not is_exact:
            raise ModelUnavailable(
                f"{spec.name}: PRECISION=int8 is not available: sums of 8-bit products overflow on this CPU, "
                f"which has no VNNI. PRECISION=auto runs {spec.weights} in fp32."
            )
        return converted(spec, width_of(precision), store, prepared)
    entry = store.find(spec.name, int8_ingredients(spec))
    if entry is None:
        raise ModelUnavailable(
            f"{spec.name}: PRECISION=int8, but there is no int8 network for these weights. Make it with your "
            f"own pictures: .venv/bin/python -m model_server quantise {spec.name} --pictures FOLDER"
        )
    if not is_exact and not entry.manifest().get(FITS_16_BITS):
        raise ModelUnavailable(
            f"{spec.name}: PRECISION=int8, but its int8 network was made for CPUs with VNNI, which this one "
            f"lacks: sums of 8-bit products would overflow. Make it again on this machine: "
            f".venv/bin/python -m model_server quantise {spec.name} --pictures FOLDER"
        )
    return entry


def int8_ingredients(spec: ModelSpec) -> dict[str, object]:
    """The ingredients, without versions: an update must not cost a network that needs the user's images."""
    return network_ingredients(spec) | {"kind": INT8}
