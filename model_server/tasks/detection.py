"""Detection: a detector's boxes and scores to predictions with boxes on the photo.

Owns the thresholds, non-maximum suppression and clipping. Runs in the serving thread, so only the few boxes
above the threshold are examined closely (docs/detection.md has the times).
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
"""How many of an image's best boxes are compared with each other. Only a threshold near 0 leaves more, and a
batch must not hold up its worker."""

_BLOCK: Final = 32
"""How many boxes are compared at once: 30 take 0.14 ms in one block, and 1.2 ms one after the other."""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes above the threshold, best first: corners x1, y1, x2, y2; each with its best class."""

    corners: NDArray[np.float64]
    scores: Floats
    classes: NDArray[np.intp]


def detect(
    outputs: Outputs, spec: ModelSpec, detection: Detection, *, original_size: tuple[int, int], top: int
) -> tuple[Prediction, ...]:
    """The `top` most probable detections in an image, best first, with boxes on a photo of `original_size`.

    `outputs` are the network's for this image, in the order of `detection.outputs`. A box has one class, its
    best; an empty answer is an answer. Raises InferenceFailed if the outputs have another shape, or if a
    number that decides the answer is not finite.
    """
    try:
        arranged = arrange(outputs, detection, len(spec.labels))
    except ValueError as error:
        raise InferenceFailed(f"The outputs do not fit the model's model.toml: {error}.") from None
    candidates = _confident(arranged, detection, (spec.input.width, spec.input.height))
    placed = place(spec.input, original_size).on_photo(candidates.corners)
    boxes = _whole(placed, original_size)
    # Boxes beyond the photo's edges, or inside out, are dropped.
    visible = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
    rows = visible[suppress(placed[visible], candidates.classes[visible], at_most=top, iou=detection.nms_iou)]
    return tuple(
        Prediction(spec.labels[at].label, spec.labels[at].class_id, probability, (x, y, width, height))
        for at, probability, (x, y, width, height) in zip(
            candidates.classes[rows].tolist(),
            candidates.scores[rows].tolist(),
            boxes[rows].tolist(),
            strict=True,
        )
    )


def suppress(
    corners: NDArray[np.float64], classes: NDArray[np.intp], *, at_most: int, iou: float
) -> list[int]:
    """The rows that greedy non-maximum suppression keeps, class by class; rows come best first.

    Of two boxes of one class whose intersection over union is above `iou`, only the better is kept. The usual
    greedy algorithm (Felzenszwalb et al. 2010, "Object detection with discriminatively trained part-based
    models"), block by block: all pairs of a block are compared at once, and the rest is a walk over bits. It
    ends when there are `at_most`.
    """
    best: list[int] = []
    for start in range(0, len(corners), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(corners)))
        if best:
            rows = rows[~_hides(corners, classes, np.array(best), rows, iou).any(axis=0)]
        hides = _hides(corners, classes, rows, rows, iou)
        is_hidden = np.zeros(len(rows), np.bool_)
        for at, row in enumerate(rows.tolist()):
            if is_hidden[at]:
                continue
            best.append(row)
            if len(best) == at_most:
                return best
            is_hidden |= hides[at]
    return best


def _hides(
    corners: NDArray[np.float64],
    classes: NDArray[np.intp],
    better: NDArray[np.intp],
    others: NDArray[np.intp],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether each of `better` overlaps each of `others` by more than `iou`, and has the same class."""
    ones, twos = corners[better, None], corners[others]
    sides = np.minimum(ones[..., 2:], twos[:, 2:]) - np.maximum(ones[..., :2], twos[:, :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = (ones[..., 2:] - ones[..., :2]).prod(axis=-1) + (twos[:, 2:] - twos[:, :2]).prod(axis=-1)
    same = classes[better, None] == classes[others]
    return np.asarray(same & (shared > iou * (areas - shared)))


def _confident(outputs: DetectorOutputs, detection: Detection, size: tuple[int, int]) -> _Candidates:
    """The boxes above the threshold, in the input's pixels. Raises InferenceFailed."""
    if outputs.objectness is None:
        _require_finite("scores", outputs.scores)
        rows = _rows_above(outputs.scores, detection.confidence)
        classes = outputs.scores[rows].argmax(axis=1)
        scores = outputs.scores[rows, classes]
    else:
        # No class is more probable than the object itself: other boxes need not be examined.
        _require_finite("scores", outputs.objectness)
        rows = np.flatnonzero(outputs.objectness >= detection.confidence)
        classes = outputs.scores[rows].argmax(axis=1)
        scores = outputs.scores[rows, classes] * outputs.objectness[rows]
        _require_finite("scores", scores)
        passed = np.flatnonzero(scores >= detection.confidence)
        rows, classes, scores = rows[passed], classes[passed], scores[passed]
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    boxes = outputs.boxes[rows[order]]
    _require_finite("boxes", boxes)
    return _Candidates(corners(boxes, detection, size), np.minimum(scores[order], 1), classes[order])


def _rows_above(scores: Floats, least: float) -> NDArray[np.intp]:
    """The rows with a score of at least `least`: 0.3 ms for 10,647 x 80, where `scores.max` takes 1 to 5."""
    above = scores >= least
    if above.flags.c_contiguous:
        return np.unique(np.flatnonzero(above) // scores.shape[1])
    return np.flatnonzero(above.any(axis=1))


def _require_finite(what: str, numbers: Floats) -> None:
    # One number that is not finite makes the sum not finite; checking each number takes four times as long.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(numbers.sum())
    if not is_finite:
        raise InferenceFailed(f"The network's {what} for this picture are not finite.")


def _whole(placed: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Corners as x, y, width, height in whole pixels of the photo; a box outside the photo has sides of 0.

    A box that overlaps the photo is at least a pixel wide and high.
    """
    edges = np.array(size, np.float64)
    first, second = placed[:, :2].clip(0, edges), placed[:, 2:].clip(0, edges)
    starts = np.minimum(np.rint(first), edges - 1)
    sides = np.where(second > first, np.maximum(np.rint(second) - starts, 1), 0)
    return np.concatenate([starts, sides], axis=1).astype(np.int64)
