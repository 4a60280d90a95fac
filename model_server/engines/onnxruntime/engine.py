"""The ONNX Runtime engine: an ONNX file as it is, on the CPU, or on an NVIDIA GPU by CUDA or TensorRT.

Owns serving with ONNX Runtime, the sizes of its batches, and the reference that it is checked against at each
start: the file's own operations on the CPU, none of them fused, one picture at a time, normalised by NumPy.
CUDA and TensorRT were not run where this was written.
"""

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import batch_sizes, choice, served_outputs
from model_server.engines.check import agreement, drawn_pictures
from model_server.engines.engine import EngineOptions, Outputs
from model_server.engines.onnxruntime import graph_facts, providers, runtime, source
from model_server.engines.onnxruntime.network import OnnxNetwork
from model_server.engines.onnxruntime.providers import ON_CPU
from model_server.engines.openvino import declared_input

_LOG = logging.getLogger(__name__)

_WHILE_RUNNING: Final[tuple[type[Exception], ...]] = (*runtime.ERRORS, IndexError)

CHUNK: Final = 8
"""Images in one call on a CPU."""


class OnnxRuntimeEngine:
    """One network of uint8 (N, *InputSpec.shape), or of prepared arrays, run by ONNX Runtime."""

    name: Final = "onnxruntime"

    def __init__(
        self,
        spec: ModelSpec,
        precision: str,
        options: EngineOptions,
        prepared: NDArray[Any] | None = None,
    ) -> None:
        """Load it and check it. Raises ModelUnavailable.

        `prepared` is what the model's own code makes of the check's pictures, if it prepares them.
        """
        self.precision = precision
        path = source.find(spec)
        provider_name = _provider(spec, options, precision)
        plain = OnnxNetwork(spec, path, ON_CPU, options.threads, prepared, is_plain=True)
        drawn = drawn_pictures.draw(spec.input) if prepared is None else prepared
        reference = self._reference(spec, plain, drawn, graph_facts.read(path))
        doubt = declared_input.of_onnx(spec, path) if prepared is None else ""
        if doubt:
            _LOG.warning("%s: %s", spec.name, doubt)
        most = options.batch_size if plain.batch is None else None
        provider = providers.provider(provider_name, precision, plain.input.name, plain.of_picture, most)
        del plain  # its weights
        self.provider = provider.name
        """As ONNX Runtime spells it."""
        self._network = OnnxNetwork(spec, path, provider, options.threads, prepared)
        self._sizes = self._batches(options.batch_size, is_on_cpu=provider == ON_CPU)
        """The sizes of its calls; smaller ones are padded. Empty: any up to CHUNK."""
        if not self._takes_batches(reference):
            _LOG.info("%s: its network takes one picture at a time", spec.name)
            self._sizes = (1,)
        # A GPU chooses among its kernels at the first run of each size.
        for size in reversed(self._sizes or (1, min(CHUNK, options.batch_size))):
            self.predict(np.zeros_like(drawn, shape=(size, *drawn.shape[1:])))
        agreement.require(spec, self.name, precision, reference, self.predict)
        _LOG.info("%s: ONNX Runtime runs it with %s", spec.name, provider.name)

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        if self._sizes:
            return batch_sizes.run(batch, self._sizes, self._run)
        # Even chunks, as in the OpenVINO engine.
        parts = [self._run(part) for part in np.array_split(batch, -(-len(batch) // CHUNK))]
        return tuple(np.concatenate(output) for output in zip(*parts, strict=True))

    def _run(self, batch: NDArray[Any]) -> Outputs:
        outputs = self._network.run(batch, self._names)
        return served_outputs.activated(self._spec, self._choice, outputs)

    def _reference(
        self, spec: ModelSpec, plain: OnnxNetwork, drawn: NDArray[Any], facts: graph_facts.GraphFacts
    ) -> agreement.Reference:
        """Choose the outputs to serve, and what they should be. Raises ModelUnavailable."""
        rows = [plain.rows(picture) for picture in drawn]
        self._spec = spec
        names = [[name] for name in plain.outputs]
        self._choice = served_outputs.choose(spec, names, [output.shape for output in rows[0]])
        self.outputs = self._choice.names
        self._names = [plain.outputs[at] for at in self._choice.numbers]
        for at, name in zip(self._choice.numbers, self._names, strict=True):
            if rows[0][at].shape[:1] != (1,):
                raise ModelUnavailable(
                    f"{spec.name}: the output {name!r} is {rows[0][at].shape} for one picture. Its first "
                    "axis must be the pictures'."
                )
        ending = facts.ending(self._names[0])
        return served_outputs.reference(spec, drawn, rows, self._choice, ending, own=facts.own_precision)

    def _batches(self, batch_size: int, *, is_on_cpu: bool) -> tuple[int, ...]:
        if self._network.batch is not None:
            return (self._network.batch,)
        return () if is_on_cpu else batch_sizes.sizes(batch_size)

    def _takes_batches(self, reference: agreement.Reference) -> bool:
        """Whether it gives several pictures at once what it gives each; a file may say so wrongly."""
        if self._network.batch is not None:
            return True  # the check will judge
        try:
            outputs = self.predict(reference.pictures)
            verdict = self._spec.task.compare(
                self._spec, reference.outputs, outputs, reference.judged_in(self.precision)
            )
        except _WHILE_RUNNING:
            return False
        return verdict.agrees


def _provider(spec: ModelSpec, options: EngineOptions, precision: str) -> str:
    """The provider that the settings mean. Raises ModelUnavailable."""
    available, has_gpu = runtime.available(), choice.has_nvidia_gpu()
    name = providers.choose(spec.name, options.provider, precision, available, has_gpu=has_gpu)
    if has_gpu and options.provider == "auto" and name == providers.CPU:
        _LOG.warning(
            "%s: this machine has an NVIDIA GPU, but the installed ONNX Runtime runs on the CPU alone. The "
            "build for GPUs: %s",
            spec.name,
            providers.INSTALL_FOR_GPU,
        )
    return name
