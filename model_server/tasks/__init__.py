"""Tasks: what comes out of a network, in words.

Owns the choice by the model's task: classification.py names the picture, detection.py what is on it and
where, geometry.py where that is on the photo. Knows no engine and no Redis.
"""

from broker.messages import Prediction
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Outputs
from model_server.tasks import classification, detection


def predictions(
    outputs: Outputs, spec: ModelSpec, *, original_size: tuple[int, int], top: int
) -> tuple[Prediction, ...]:
    """What the network's outputs for one picture say of it. Raises InferenceFailed where they say nothing.

    `original_size` is the upload's (width, height), `top` the most that is told.
    """
    if spec.detection is not None:
        return detection.detect(outputs, spec, spec.detection, original_size=original_size, top=top)
    return classification.classify(outputs[0], spec.labels, top)
