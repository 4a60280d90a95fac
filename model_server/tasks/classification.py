"""Classification: a network's probabilities to the best classes.

Owns the reading of a classifier's output, and what else its task is. Knows no runtime and no Redis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Prediction, TaskResult
from model_server.engines.check import agreement
from model_server.tasks.task import ReadOptions, Task

if TYPE_CHECKING:
    from broker.messages import Label
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs


class ClassificationTask(Task):
    """What an image shows: the most probable classes."""

    name = "classification"
    noun = "a classifier"
    reads_one_as_two = True
    has_best_class = True
    cure = (
        "The labels file needs a label for each number (some networks begin with a class for the background)."
    )

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """Several numbers may be classes."""
        if any(sum(side > 1 for side in shape) == 1 for shape in shapes):
            return 'A classifier needs task = "classification", with a label for each number.'
        return ""

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """The `top` best classes."""
        return TaskResult(classify(outputs[0], spec.labels, options.top))

    def scores(self, outputs: Outputs, /) -> tuple[float, ...]:
        """The first output, as it is."""
        return tuple(outputs[0].tolist())

    def compare(
        self, _spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> agreement.AgreementVerdict:
        """Differences as shares of the most probable class, and the best class."""
        return agreement.compare(reference, outputs, agreement.TOLERANCES[precision])


def classify(
    probabilities: NDArray[np.float32], labels: tuple[Label, ...], top: int
) -> tuple[Prediction, ...]:
    """The `top` most probable classes of one image, best first; equals stay in the labels' order.

    `probabilities` is float32 (classes,). Raises InferenceFailed unless it has one finite number for each
    class: JSON has no NaN.
    """
    if probabilities.shape != (len(labels),):
        raise InferenceFailed(
            f"The network gave an output of shape {probabilities.shape} for {len(labels)} labels."
        )
    if not np.isfinite(probabilities).all():
        raise InferenceFailed("The network's output for this picture is not finite.")
    best = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(
        Prediction(labels[index].label, labels[index].class_id, float(probabilities[index])) for index in best
    )
