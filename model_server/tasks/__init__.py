"""Tasks: how a network's outputs become predictions.

Owns the choice by the model's task: classification.py says what an image shows, detection.py what is in it
and where. Knows no engine and no Redis.
"""

from broker.messages import Prediction
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Outputs
from model_server.tasks import classification, detection


def predictions(
    outputs: Outputs, spec: ModelSpec, *, original_size: tuple[int, int], top: int
) -> tuple[Prediction, ...]:
    """The predictions from the network's outputs for one image. Raises InferenceFailed if they are invalid.

    `original_size` is the upload's (width, height), `top` the most predictions.
    """
    if spec.detection is not None:
        return detection.detect(outputs, spec, spec.detection, original_size=original_size, top=top)
    return classification.classify(outputs[0], spec.labels, top)
