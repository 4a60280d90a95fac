"""What is on a picture and where: a detector's boxes and scores to predictions with boxes on the photo.

Owns the thresholds' application, non-maximum suppression and the clipping. Runs in the serving thread, so
only the few boxes above the threshold are ever looked at closely (docs/detection.md has the times).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Prediction
from model_server.catalogue.detection_layout import Detection, DetectorOutputs, Floats, arrange, corners
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Outputs
from pictures.geometry import place

MAX_CANDIDATES: Final = 2_048
"""Boxes of a picture that are compared with each other, the best: only a threshold near 0 has more, and a
batch must not hold its worker up."""

_BLOCK: Final = 32
"""Boxes that are compared with each other at once: 30 take 0.14 ms so, and 1.2 ms one after the other."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes above the threshold, best first: corners x1, y1, x2, y2; each with its best class."""

    corners: NDArray[np.float64]
    scores: Floats
    classes: NDArray[np.intp]


def detect(
    outputs: Outputs, spec: ModelSpec, detection: Detection, *, original_size: tuple[int, int], top: int
) -> tuple[Prediction, ...]:
    """The `top` most probable detections on a picture, best first, with boxes on a photo of `original_size`.

    `outputs` are the network's for this picture, in the order of `detection.outputs`. A box has one class,
    its best; no detection at all is an answer. Raises InferenceFailed where the outputs have another shape,
    or a number that decides the answer is not finite.
    """
    try:
        arranged = arrange(outputs, detection, len(spec.labels))
    except ValueError as error:
        raise InferenceFailed(f"The model does not do what its model.toml says: {error}.") from None
    found = _confident(arranged, detection, (spec.input.width, spec.input.height))
    placed = place(spec.input, original_size).on_photo(found.corners)
    boxes = _whole(placed, original_size)
    # What lies beyond the photo's edges, or inside out, is nothing on it.
    shown = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
    kept = shown[suppress(placed[shown], found.classes[shown], at_most=top, iou=detection.nms_iou)]
    return tuple(
        Prediction(spec.labels[at].label, spec.labels[at].class_id, probability, (x, y, width, height))
        for at, probability, (x, y, width, height) in zip(
            found.classes[kept].tolist(), found.scores[kept].tolist(), boxes[kept].tolist(), strict=True
        )
    )


def suppress(
    corners: NDArray[np.float64], classes: NDArray[np.intp], *, at_most: int, iou: float
) -> list[int]:
    """The rows that greedy non-maximum suppression keeps, class by class; rows come best first.

    Of two boxes of one class whose intersection over union is above `iou`, only the better is kept. The usual
    greedy algorithm (Felzenszwalb et al. 2010, "Object detection with discriminatively trained part-based
    models"), block by block: all pairs of a block are compared at once, and what is left is a walk over bits.
    It ends when there are `at_most`.
    """
    kept: list[int] = []
    for start in range(0, len(corners), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(corners)))
        if kept:
            rows = rows[~_hides(corners, classes, np.array(kept), rows, iou).any(axis=0)]
        hides = _hides(corners, classes, rows, rows, iou)
        is_hidden = np.zeros(len(rows), np.bool_)
        for at, row in enumerate(rows.tolist()):
            if is_hidden[at]:
                continue
            kept.append(row)
            if len(kept) == at_most:
                return kept
            is_hidden |= hides[at]
    return kept


def _hides(
    corners: NDArray[np.float64],
    classes: NDArray[np.intp],
    better: NDArray[np.intp],
    others: NDArray[np.intp],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether each of `better` overlaps each of `others` by more than `iou`, and is of its class."""
    ones, twos = corners[better, None], corners[others]
    sides = np.minimum(ones[..., 2:], twos[:, 2:]) - np.maximum(ones[..., :2], twos[:, :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = (ones[..., 2:] - ones[..., :2]).prod(axis=-1) + (twos[:, 2:] - twos[:, :2]).prod(axis=-1)
    same = classes[better, None] == classes[others]
    return np.asarray(same & (shared > iou * (areas - shared)))


def _confident(found: DetectorOutputs, detection: Detection, size: tuple[int, int]) -> _Candidates:
    """The boxes above the threshold, in the input's pixels. Raises InferenceFailed."""
    if found.objectness is None:
        _require_finite("scores", found.scores)
        rows = _rows_above(found.scores, detection.confidence)
        classes = found.scores[rows].argmax(axis=1)
        told = found.scores[rows, classes]
    else:
        # No class is more probable than that there is an object: the classes of other boxes need no look.
        _require_finite("scores", found.objectness)
        rows = np.flatnonzero(found.objectness >= detection.confidence)
        classes = found.scores[rows].argmax(axis=1)
        told = found.scores[rows, classes] * found.objectness[rows]
        _require_finite("scores", told)
        passed = np.flatnonzero(told >= detection.confidence)
        rows, classes, told = rows[passed], classes[passed], told[passed]
    order = np.argsort(-told, kind="stable")[:MAX_CANDIDATES]
    boxes = found.boxes[rows[order]]
    _require_finite("boxes", boxes)
    return _Candidates(corners(boxes, detection, size), np.minimum(told[order], 1), classes[order])


def _rows_above(scores: Floats, least: float) -> NDArray[np.intp]:
    """The rows with a score of at least that. 10,647 x 80 take 0.3 ms; `scores.max(axis=1)` takes 1 to 5."""
    above = scores >= least
    if above.flags.c_contiguous:
        return np.unique(np.flatnonzero(above) // scores.shape[1])
    return np.flatnonzero(above.any(axis=1))


def _require_finite(what: str, numbers: Floats) -> None:
    # One number that is not finite makes the sum so; to look at each takes four times as long.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(numbers.sum())
    if not is_finite:
        raise InferenceFailed(f"The network's {what} for this picture are not finite.")


def _whole(placed: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Corners as x, y, width, height in whole pixels of the photo; sides of 0 or less where nothing is on it.

    What is on it at all is at least a pixel wide and high.
    """
    edges = np.array(size, np.float64)
    first, second = placed[:, :2].clip(0, edges), placed[:, 2:].clip(0, edges)
    starts = np.minimum(np.rint(first), edges - 1)
    sides = np.where(second > first, np.maximum(np.rint(second) - starts, 1), 0)
    return np.concatenate([starts, sides], axis=1).astype(np.int64)
