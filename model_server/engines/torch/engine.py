"""The PyTorch engine: runs networks that OpenVINO can't convert, in fp32, on the CPU.

Owns serving with PyTorch, and the check of a whole batch against single images.
"""

import logging
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import served_outputs
from model_server.engines.check import agreement, drawn_pictures
from model_server.engines.engine import EngineOptions, Outputs
from model_server.engines.torch import sources

_LOG = logging.getLogger(__name__)


class TorchEngine:
    """One network of uint8 (N, *InputSpec.shape), or of prepared arrays, run by PyTorch layer by layer."""

    name: Final = "torch"

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
        if precision != "fp32":
            raise ModelUnavailable(
                f"{spec.name}: ENGINE=torch computes in fp32 alone, not in {precision}. Set PRECISION=auto."
            )
        self.precision = precision
        if options.threads:
            torch.set_num_threads(options.threads)
        self._spec = spec
        self._network = sources.load(spec, prepared)
        drawn = drawn_pictures.draw(spec.input) if prepared is None else prepared
        rows = [self._network.outputs(picture[None]) for picture in drawn]
        self._choice = served_outputs.choose(spec, self._network.names, [output.shape for output in rows[0]])
        self.outputs = self._choice.names
        reference = served_outputs.reference(spec, drawn, rows, self._choice, "unknown")
        self._chunk = options.batch_size
        """Images in one call: 1 for a network that is correct only for single images."""
        if not self._takes_batches(reference):
            _LOG.info("%s: its network takes one picture at a time", spec.name)
            self._chunk = 1
        # A ScriptModule is optimised for a size in its second run of it.
        for size in (options.batch_size, options.batch_size, 1, 1):
            self.predict(np.zeros_like(drawn, shape=(size, *drawn.shape[1:])))
        agreement.require(spec, self.name, precision, reference, self.predict)

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict."""
        chunks = [batch[at : at + self._chunk] for at in range(0, len(batch), self._chunk)]
        parts = [self._run(chunk) for chunk in chunks]
        return tuple(np.concatenate(output) for output in zip(*parts, strict=True))

    def _run(self, batch: NDArray[np.uint8]) -> Outputs:
        outputs = self._network.run(batch)
        return served_outputs.activated(
            self._spec, self._choice, [outputs[at] for at in self._choice.numbers]
        )

    def _takes_batches(self, reference: agreement.Reference) -> bool:
        if self._chunk == 1:
            return True  # nothing to find out: it is not given any
        try:
            outputs = self.predict(reference.pictures)
            return self._spec.task.compare(self._spec, reference.outputs, outputs, "fp32").agrees
        except Exception:  # noqa: BLE001 - the network's own code raises anything
            return False
