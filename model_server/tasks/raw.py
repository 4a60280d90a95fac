"""Raw: a network's outputs as they are, by name.

Owns the bound on how many numbers an answer has, and what else its task is. Knows no runtime and no Redis.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from broker.messages import RawOutput, TaskResult
from model_server.engines.check import plain_numbers
from model_server.tasks.numbers import finite
from model_server.tasks.task import ReadOptions, Task

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs

MOST_NUMBERS: Final = 250_000
"""Numbers in an answer, at most: 5 MB of JSON, which Redis keeps for RESULT_TTL_S."""


class RawTask(Task):
    """What the network says, for a client that reads it itself."""

    name = "raw"
    noun = "a raw model"
    has_labels = False
    gives_probabilities = False
    is_exact = True

    def read(self, outputs: Outputs, _spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """Every output that is served, by the name that it has in the network's file, else by its number."""
        names = options.names or tuple(str(number) for number in range(len(outputs)))
        return TaskResult(
            outputs={
                name: RawOutput(output.shape, tuple(finite(output).reshape(-1).tolist()))
                for name, output in zip(names, outputs, strict=True)
            }
        )

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> plain_numbers.NumbersVerdict:
        """Differences as a share of each output's size."""
        return plain_numbers.compare(reference, outputs, precision)

    def choose(self, spec: ModelSpec, shapes: list[tuple[int, ...]], /) -> list[int]:
        """All of them."""
        return [] if self.misfit(spec, shapes) else list(range(len(shapes)))

    def misfit(self, _spec: ModelSpec, shapes: list[tuple[int, ...]], /) -> str:
        """Any shape fits, up to a size."""
        numbers = sum(math.prod(shape) for shape in shapes)
        if shapes and numbers <= MOST_NUMBERS:
            return ""
        return (
            f"the network's outputs for a picture are {numbers} numbers, and an answer has at most "
            f"{MOST_NUMBERS}: choose an output with name in [output]"
        )
