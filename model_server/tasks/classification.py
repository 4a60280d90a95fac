"""Classification: a network's probabilities to the best classes.

Owns the reading of a classifier's output. Knows no engine and no Redis.
"""

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Prediction
from model_server.catalogue.model_spec import Label


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
