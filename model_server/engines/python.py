"""The network of `kind = "python"`: what load() in the model's hooks.py returns, in any framework.

Owns the check of its outputs: that they fit the task, and that pictures together get what each gets alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.engines import normalisation, output_choice
from model_server.engines.check import agreement, drawn_pictures
from model_server.engines.output_choice import NetworkOutput
from model_server.hooks.own_code import HookFailed, OwnCode

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs

PRECISION: Final = "own"
"""What a network computes in that only its own code knows."""

_TOLERANCE: Final = "bf16"
"""Of pictures together against one by one: predict may compute in 16 bits."""


class PythonNetwork:
    """predict of hooks.py, as an engine. It takes one call at a time."""

    name: Final = "python"
    precision: Final = PRECISION

    def __init__(self, spec: ModelSpec, code: OwnCode, batch_size: int) -> None:
        """Warm up, and run the check's pictures, one by one and together. Raises ModelUnavailable."""
        self._spec = spec
        self._code = code
        self._is_flat = spec.task.gives_probabilities
        drawn = drawn_pictures.draw(spec.input)
        try:
            for size in {1, batch_size}:
                repeated = np.resize(drawn, (size, *spec.input.shape))
                code.predict(normalisation.pixels(spec, repeated), warms_up=True)
            rows = [code.predict(normalisation.pixels(spec, picture[None])) for picture in drawn]
            names, first = rows[0]
            shapes = [NetworkOutput((name,), output.shape) for name, output in zip(names, first, strict=True)]
            choice = output_choice.choose(spec, shapes)
            self._numbers, self._is_of_second = choice.numbers, choice.is_of_second
            self.outputs = choice.names
            alone = [self._served(outputs, 1) for _, outputs in rows]
            parts = [self.predict(drawn[at : at + batch_size]) for at in range(0, len(drawn), batch_size)]
            together = tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))
        except HookFailed:
            raise ModelUnavailable(
                f"{spec.name}: predict in hooks.py failed on pictures of {spec.input.network_shape} (height, "
                "width, channels). The model server's log has the reason."
            ) from None
        try:
            reference = tuple(np.concatenate(outputs) for outputs in zip(*alone, strict=True))
            if spec.task.gives_probabilities:
                agreement.require_probabilities(spec, reference[0])
            else:
                agreement.require_finite(spec, reference)
            verdict = spec.task.compare(spec, reference, together, _TOLERANCE)
        except ValueError as error:
            raise ModelUnavailable(
                f"{spec.name}: predict gives outputs of several shapes ({error})."
            ) from None
        if not verdict.agrees:
            raise ModelUnavailable(
                f"{spec.name}: predict gives other outputs for pictures together than one by one ({verdict})."
            )

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        """See Engine.predict. Raises HookFailed."""
        _, outputs = self._code.predict(normalisation.pixels(self._spec, batch))
        return self._served(outputs, len(batch))

    def _served(self, outputs: list[NDArray[np.float32]], pictures: int) -> Outputs:
        """The outputs that are served. Raises HookFailed if they are not those of so many pictures."""
        if len(outputs) <= max(self._numbers):
            self._code.report("predict", f"it returned {len(outputs)} outputs, and more before")
            raise HookFailed
        served = [outputs[number] for number in self._numbers]
        for output in served:
            if output.shape[:1] != (pictures,):
                self._code.report("predict", f"it returned {output.shape} for {pictures} pictures")
                raise HookFailed
        if self._is_flat:
            served = [output.reshape(pictures, -1) for output in served]
        if self._is_of_second:
            served = [np.concatenate([1 - served[0], served[0]], axis=1)]
        return tuple(served)
