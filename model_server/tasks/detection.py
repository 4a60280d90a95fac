"""Detection: a detector's boxes and scores to predictions with boxes on the photo.

Owns the thresholds, non-maximum suppression and clipping, and what else a detector's task is. Runs in the
serving thread, so only the few boxes above the threshold are examined closely (docs/detection.md has the
times).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Fit, Prediction, TaskResult
from model_server.catalogue import detection_layout
from model_server.catalogue.detection_layout import (
    LAYOUT_FIELDS,
    MOST_DETECTIONS,
    Detection,
    DetectorOutputs,
    Floats,
    Output,
    arrange,
    corners,
)
from model_server.engines.check import detection as check
from model_server.tasks.numbers import require_finite
from model_server.tasks.task import ReadOptions, Task, table_of
from pictures.geometry import place

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import Input, ModelToml
    from model_server.engines.engine import Outputs

MAX_CANDIDATES: Final = 2_048
"""How many of an image's best boxes are compared with each other. Only a threshold near 0 leaves more, and a
batch must not hold up its worker."""

_BLOCK: Final = 32
"""How many boxes are compared at once: 30 take 0.14 ms in one block, and 1.2 ms one after the other."""


_USUAL_TOP: Final = 100

_DARKNET_STRIDE: Final = 32
"""The side in pixels of a cell of a detector's coarsest grid."""


class DetectionTask(Task):
    """What is in an image, and where: boxes with their classes."""

    name = "detection"
    noun = "a detector"
    gives_probabilities = False
    has_places = True
    most = MOST_DETECTIONS
    table = Detection
    cure = 'A detector with one output (4 + labels, n) needs layout = "ultralytics".'

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """The `top` most probable boxes."""
        size, top = options.original_size, options.top
        return TaskResult(
            detect(outputs, spec, table_of(spec.options, Detection), original_size=size, top=top)
        )

    def compare(
        self, spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> check.DetectionVerdict:
        """Differences of the probabilities, and overlaps of the boxes."""
        return check.compare(spec, table_of(spec.options, Detection), reference, outputs, precision)

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """Keys that boxes rule out, and those that are known of Darknet's networks."""
        if toml.input.fit is Fit.INK:
            yield "input.fit", 'A detector can\'t use "ink": its boxes could not be placed on the photo.'
        if toml.output.name is not None:
            yield "output.name", "A detector's outputs are named in [detection]: boxes, scores, objectness."
        yield from super().misfits(toml)
        if toml.is_darknet:
            yield from _misfits_of_darknet(toml.input)
        if toml.is_darknet and toml.own_table is not None:
            for field in LAYOUT_FIELDS:
                if getattr(toml.own_table, field) != getattr(Detection(), field):
                    problem = f"The layout of Darknet's outputs is known. Leave {field} out."
                    yield f"detection.{field}", problem

    def options(self, toml: ModelToml) -> Detection:
        """What [detection] says; of Darknet's networks only the thresholds are asked for."""
        detection = table_of(toml.own_table or Detection(), Detection)
        return detection_layout.of_darknet(detection) if toml.is_darknet else detection

    def usual_top(self, _labels: int, /) -> int:
        """As many as a picture usually has objects, and some."""
        return _USUAL_TOP

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """Rows of numbers may be boxes."""
        if any(len(shape) == 2 for shape in shapes) or len(shapes) > 1:
            return 'A network that gives boxes needs task = "detection".'
        return ""

    def outputs(self, spec: ModelSpec) -> tuple[Output, ...]:
        """Those that [detection] names."""
        return table_of(spec.options, Detection).outputs

    def misfit(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
        """Why these are not boxes and scores of the labels' classes."""
        return detection_layout.misfit(table_of(spec.options, Detection), shapes, len(spec.labels))


def _misfits_of_darknet(fields: Input) -> Iterator[tuple[str, str]]:
    """Keys that a Darknet detector would silently accept, or refuse in terms of its layers."""
    if isinstance(fields.normalise, str) and fields.normalise != "unit":
        yield "input.normalise", 'Darknet\'s networks take 0..1. Use "unit".'
    for side in ("width", "height"):
        if getattr(fields, side) % _DARKNET_STRIDE:
            yield f"input.{side}", f"{side} must be a multiple of {_DARKNET_STRIDE}, whatever the cfg says."


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Boxes above the threshold, best first: corners x1, y1, x2, y2; each with its best class."""

    corners: NDArray[np.float64]
    scores: Floats
    classes: NDArray[np.intp]
    rows: NDArray[np.intp]
    """Where they are among the network's boxes."""


@dataclass(frozen=True, slots=True)
class DetectedBoxes:
    """The boxes of an answer, best first."""

    predictions: tuple[Prediction, ...]
    corners: NDArray[np.float64]
    """x1, y1, x2, y2 on the photo, exactly; some beyond its edges."""
    rows: NDArray[np.intp]
    """Where they are among the network's boxes."""


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
    return find(arranged, spec, detection, original_size=original_size, top=top).predictions


def find(
    arranged: DetectorOutputs,
    spec: ModelSpec,
    detection: Detection,
    *,
    original_size: tuple[int, int],
    top: int,
) -> DetectedBoxes:
    """What `detect` answers, and where each of its boxes is among the outputs. Raises InferenceFailed."""
    candidates = _confident(arranged, detection, (spec.input.width, spec.input.height))
    placed = place(spec.input, original_size).on_photo(candidates.corners)
    boxes = _whole(placed, original_size)
    # Boxes beyond the photo's edges, or inside out, are dropped.
    visible = np.flatnonzero((boxes[:, 2:] > 0).all(axis=1))
    rows = visible[suppress(placed[visible], candidates.classes[visible], at_most=top, iou=detection.nms_iou)]
    predictions = tuple(
        Prediction(spec.labels[at].label, spec.labels[at].class_id, probability, (x, y, width, height))
        for at, probability, (x, y, width, height) in zip(
            candidates.classes[rows].tolist(),
            candidates.scores[rows].tolist(),
            boxes[rows].tolist(),
            strict=True,
        )
    )
    return DetectedBoxes(predictions, placed[rows], candidates.rows[rows])


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
        require_finite("scores", outputs.scores)
        rows = _rows_above(outputs.scores, detection.confidence)
        classes = outputs.scores[rows].argmax(axis=1)
        scores = outputs.scores[rows, classes]
    else:
        # No class is more probable than the object itself: other boxes need not be examined.
        require_finite("scores", outputs.objectness)
        rows = np.flatnonzero(outputs.objectness >= detection.confidence)
        classes = outputs.scores[rows].argmax(axis=1)
        scores = outputs.scores[rows, classes] * outputs.objectness[rows]
        require_finite("scores", scores)
        passed = np.flatnonzero(scores >= detection.confidence)
        rows, classes, scores = rows[passed], classes[passed], scores[passed]
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    boxes = outputs.boxes[rows[order]]
    require_finite("boxes", boxes)
    places = corners(boxes, detection, size)
    return _Candidates(places, np.minimum(scores[order], 1), classes[order], rows[order])


def _rows_above(scores: Floats, least: float) -> NDArray[np.intp]:
    """The rows with a score of at least `least`: 0.3 ms for 10,647 x 80, where `scores.max` takes 1 to 5."""
    above = scores >= least
    if above.flags.c_contiguous:
        return np.unique(np.flatnonzero(above) // scores.shape[1])
    return np.flatnonzero(above.any(axis=1))


def _whole(placed: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Corners as x, y, width, height in whole pixels of the photo; a box outside the photo has sides of 0.

    A box that overlaps the photo is at least a pixel wide and high.
    """
    edges = np.array(size, np.float64)
    first, second = placed[:, :2].clip(0, edges), placed[:, 2:].clip(0, edges)
    starts = np.minimum(np.rint(first), edges - 1)
    sides = np.where(second > first, np.maximum(np.rint(second) - starts, 1), 0)
    return np.concatenate([starts, sides], axis=1).astype(np.int64)
