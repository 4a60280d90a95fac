"""Regression: a network's numbers, each with its label.

Owns the reading of such an output, and what else its task is. Knows no runtime and no Redis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from broker.messages import TaskResult
from model_server.engines.check import plain_numbers
from model_server.tasks.numbers import finite
from model_server.tasks.task import ReadOptions, Task

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs

_FEW: Final = 8
"""So many numbers at most look like quantities, more like a vector or classes."""


class RegressionTask(Task):
    """How much: a number for each label, of any size."""

    name = "regression"
    noun = "a regressor"
    gives_probabilities = False
    is_exact = True
    cure = "The labels file needs a name for each number."

    def read(self, outputs: Outputs, spec: ModelSpec, _options: ReadOptions, /) -> TaskResult:
        """Each label's number."""
        numbers = finite(outputs[0]).reshape(-1).tolist()
        names = (label.label for label in spec.labels)
        return TaskResult(values=dict(zip(names, numbers, strict=True)))

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> plain_numbers.NumbersVerdict:
        """Differences as a share of the numbers' size."""
        return plain_numbers.compare(reference, outputs, precision)

    def top_max(self, _labels: int, /) -> int:
        """There is nothing to choose from."""
        return 1

    def label_problems(self, spec: ModelSpec, /) -> Iterator[tuple[str, str]]:
        """Labels of one name: an answer has each number by its label."""
        names = [label.label for label in spec.labels]
        for name in dict.fromkeys(names):
            if names.count(name) > 1:
                yield "labels", f"Two labels are {name!r}: each number needs a name of its own."

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """A few numbers may be quantities."""
        if any(0 < math.prod(shape) <= _FEW for shape in shapes):
            return 'If each number is a quantity and not a probability, write task = "regression".'
        return ""
