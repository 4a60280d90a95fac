"""A model's answer as named outputs, for protocols in which a network has inputs and outputs.

Owns their names, types and shapes for every task. responses.py owns our own answer.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from broker.messages import Box, Card, Prediction, Result
from pictures import png

PICTURE: Final = "image_bytes"
"""The one input of every model, and the output of one that makes pictures. A name that ends so has bytes."""

_FLOAT: Final = "DT_FLOAT"
_STRING: Final = "DT_STRING"


class OutputSignature(NamedTuple):
    """What one output holds for a batch of pictures."""

    dtype: str
    """As TensorFlow spells it."""
    shape: tuple[int, ...]
    """-1 where a side may differ; the first is that of the batch."""


_CLASSES: Final = -2
"""In a shape: a number for each label."""

_BOXES: Final = {
    "boxes": OutputSignature(_FLOAT, (-1, -1, 4)),
    "scores": OutputSignature(_FLOAT, (-1, -1)),
    "classes": OutputSignature(_STRING, (-1, -1)),
}

_DECLARED: Final[dict[str, dict[str, OutputSignature]]] = {
    "classification": {"probabilities": OutputSignature(_FLOAT, (-1, _CLASSES))},
    "multi_label": {"probabilities": OutputSignature(_FLOAT, (-1, _CLASSES))},
    "detection": _BOXES,
    "segmentation": {
        **_BOXES,
        "masks": OutputSignature(_STRING, (-1, -1)),
        "mask_sizes": OutputSignature("DT_INT64", (-1, -1, 2)),
    },
    "keypoints": {**_BOXES, "keypoints": OutputSignature(_FLOAT, (-1, -1, -1, 3))},
    "embedding": {"embedding": OutputSignature(_FLOAT, (-1, -1))},
    "regression": {"values": OutputSignature(_FLOAT, (-1, _CLASSES))},
    "image": {PICTURE: OutputSignature(_STRING, (-1,))},
}
"""By task; another's outputs are known from its answers alone."""

_COLUMNS: Final[dict[str, Callable[[Prediction], Any]]] = {
    "boxes": lambda found: corners(found.box),
    "scores": lambda found: found.probability,
    "classes": lambda found: found.label,
    "masks": lambda found: found.mask.counts if found.mask else "",
    "mask_sizes": lambda found: found.mask.size if found.mask else (0, 0),
    "keypoints": lambda found: [(point.x, point.y, point.probability) for point in found.keypoints or ()],
}
"""What an output has of each thing that was found."""


def declared(card: Card) -> dict[str, OutputSignature]:
    """The outputs that a model's card tells of; empty where only its answers do."""
    return {
        name: OutputSignature(
            tensor.dtype, tuple(card.classes if side == _CLASSES else side for side in tensor.shape)
        )
        for name, tensor in _DECLARED.get(card.task, {}).items()
    }


def of(result: Result, card: Card) -> dict[str, Any]:
    """The outputs for one picture, as JSON; what a model's own code adds stands beside its task's outputs."""
    if result.result is not None:
        return _beside(result, card) | result.result
    if result.scores is not None:
        return {"probabilities": result.scores}
    if result.embedding is not None:
        return {"embedding": result.embedding}
    if result.values is not None:
        return {"values": list(result.values.values())}
    if result.image is not None:
        return {PICTURE: {"b64": png.of_pixels(result.image)}}
    if result.outputs is not None:
        return {
            name: np.array(output.data).reshape(output.shape).tolist()
            for name, output in result.outputs.items()
        }
    if result.steps is not None:
        return result.steps
    return _columns(result, card)


def _beside(result: Result, card: Card) -> dict[str, Any]:
    """What the card tells of, as far as the result has it, and the predictions of the model's own code."""
    outputs = {} if result.scores is None else {"probabilities": result.scores}
    if result.predictions or "boxes" in declared(card):
        outputs |= _columns(result, card)
    return outputs


def _columns(result: Result, card: Card) -> dict[str, Any]:
    """A list for each output, with an element for each prediction."""
    columns = [name for name in declared(card) if name in _COLUMNS] or ["scores", "classes"]
    return {name: [_COLUMNS[name](found) for found in result.predictions] for name in columns}


def corners(box: Box | None) -> tuple[int, int, int, int] | None:
    """A box as its left, upper, right and lower edge, in pixels of the photo as uploaded."""
    if box is None:
        return None
    x, y, width, height = box
    return (x, y, x + width, y + height)
