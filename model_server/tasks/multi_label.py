"""Multi-label classification: independent probabilities to every label that applies.

Owns the thresholds and the measure of the check, and what else its task is. Knows no runtime and no Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from broker.messages import TaskResult
from model_server.catalogue.detection_layout import Share
from model_server.engines.check.plain_numbers import NumbersVerdict
from model_server.tasks.classification import ClassificationTask, classify
from model_server.tasks.task import ReadOptions, Task, table_of

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import ModelToml
    from model_server.engines.engine import Outputs

TOLERANCES: Final = {"fp32": 0.001, "bf16": 0.1, "fp16": 0.1, "int8": 0.3}
"""The largest difference of a probability, by precision. Not a share of the largest, as for classes: all may
be small, and then a share refuses a sound engine."""


class MultiLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[multi_label]: the probability from which a label belongs to the answer."""

    threshold: Share = 0.5
    thresholds: dict[str, Share] = {}
    """Those of single labels, by label."""


class MultiLabelTask(Task):
    """Which of the labels apply to an image: any number of them."""

    name = "multi_label"
    noun = "a multi-label classifier"
    table = MultiLabel
    cure = ClassificationTask.cure

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """At most `top` labels that reach their thresholds; an empty answer is an answer."""
        table = table_of(spec.options, MultiLabel)
        best = classify(outputs[0], spec.labels, len(spec.labels))
        reached = [
            each for each in best if each.probability >= table.thresholds.get(each.label, table.threshold)
        ]
        return TaskResult(tuple(reached[: options.top]))

    def scores(self, outputs: Outputs, /) -> tuple[float, ...]:
        """The first output, as it is."""
        return tuple(outputs[0].tolist())

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> NumbersVerdict:
        """Each probability counts by itself."""
        if reference[0].shape != outputs[0].shape:
            raise ValueError(f"the output's shape is {outputs[0].shape}, but should be {reference[0].shape}")
        difference = float(np.abs(reference[0] - outputs[0]).max())
        return NumbersVerdict(
            len(reference[0]), difference, TOLERANCES[precision], "probabilities differ by {}"
        )

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """A softmax would make the probabilities depend on each other."""
        yield from super().misfits(toml)
        if toml.output.activation == "softmax":
            yield "output.activation", 'The labels are independent of each other. Use "sigmoid".'

    def label_problems(self, spec: ModelSpec) -> Iterator[tuple[str, str]]:
        """Thresholds of labels that there are not."""
        known = {label.label for label in spec.labels}
        for label in table_of(spec.options, MultiLabel).thresholds:
            if label not in known:
                yield "multi_label.thresholds", f"There is no label {label!r} in the labels file."

    def usual_top(self, labels: int) -> int:
        """All that apply."""
        return self.top_max(labels)
