"""Keypoints: boxes with the points of what is in them, such as a person's joints.

Owns their places on the photo and their names, and what else its task is. Boxes are chosen as detection.py
does. Knows no runtime and no Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import numpy as np

from broker.messages import Fit, Keypoint, Skeleton, TaskResult
from model_server.catalogue.detection_layout import MOST_DETECTIONS, Detection, Output, Share
from model_server.tasks import box_rows, detection
from model_server.tasks.numbers import require_finite
from model_server.tasks.task import ReadOptions, Task, table_of
from pictures.geometry import place

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.catalogue.model_toml import ModelToml
    from model_server.engines.engine import Outputs

_USUAL_TOP: Final = 100

COCO_NAMES: Final = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
COCO_SKELETON: Final = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""Those of COCO's person_keypoints annotations, its skeleton counted from 0."""

Place = Annotated[int, msgspec.Meta(ge=0)]


class Keypoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[keypoints]: which boxes are reported, and what their points are called."""

    confidence: Share = 0.4
    """The least probability of a box that is reported."""
    nms_iou: Share = 0.45
    """Of two boxes of one class that overlap more, only the better is reported."""
    names: tuple[str, ...] | None = None
    """None: COCO's for 17 points, else numbers."""
    skeleton: tuple[tuple[Place, Place], ...] | None = None
    """The pairs of points that a line connects. None: COCO's for COCO's names, else none."""
    draw: Share = 0.5
    """The least probability of a point that is drawn; the answer has them all."""
    output: Output = 0


class KeypointsTask(Task):
    """What is in an image, and where its points are."""

    name = "keypoints"
    noun = "a keypoint detector"
    gives_probabilities = False
    has_places = True
    most = MOST_DETECTIONS
    table = Keypoints

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions, /) -> TaskResult:
        """The `top` most probable boxes with their points; what lies beyond the photo's edges is on them."""
        table, size = table_of(spec.options, Keypoints), options.original_size
        arranged, rest = box_rows.split(outputs[0], len(spec.labels))
        thresholds = Detection(table.confidence, table.nms_iou, layout="ultralytics")
        found = detection.find(arranged, spec, thresholds, original_size=size, top=options.top)
        points = rest[found.rows].astype(np.float64).reshape(len(found.rows), rest.shape[1] // 3, 3)
        require_finite("keypoints", points)
        where = place(spec.input, size)
        scale, start = (where.scale_x, where.scale_y), (where.left, where.top)
        points[..., :2] = (points[..., :2] * scale + start).clip(0, size).round(1)
        names, skeleton = _naming(table, points.shape[1])
        predictions = tuple(
            msgspec.structs.replace(
                prediction,
                keypoints=tuple(Keypoint(*each) for each in zip(names, *row.T.tolist(), strict=True)),
            )
            for prediction, row in zip(found.predictions, points, strict=True)
        )
        return TaskResult(predictions, skeleton=Skeleton(skeleton, table.draw) if predictions else None)

    def compare(
        self, spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, /
    ) -> box_rows.RowsVerdict:
        """A detector's measures, and the points' differences as a share of their size."""
        return box_rows.compare(spec, reference, outputs, precision, "keypoints")

    def misfits(self, toml: ModelToml) -> Iterator[tuple[str, str]]:
        """Keys that boxes rule out, and points that do not exist."""
        if toml.input.fit is Fit.INK:
            yield "input.fit", '"ink" can\'t be used for keypoints: they could not be placed on the photo.'
        if toml.output.name is not None:
            yield "output.name", "Keypoints' output is named in [keypoints]: output."
        yield from super().misfits(toml)
        table = toml.own_table
        if not isinstance(table, Keypoints):
            return
        if table.names is not None and not table.names:
            yield "keypoints.names", "A list of names has at least one. Leave it out for numbers."
        ends = [end for line in table.skeleton or () for end in line]
        if table.names is not None and ends and max(ends) >= len(table.names):
            problem = f"There is no point {max(ends)}: the {len(table.names)} points count from 0."
            yield "keypoints.skeleton", problem

    def usual_top(self, _labels: int, /) -> int:
        """As many as a picture usually has people, and some."""
        return _USUAL_TOP

    def outputs(self, spec: ModelSpec) -> tuple[Output, ...]:
        """The one that [keypoints] names."""
        return (table_of(spec.options, Keypoints).output,)

    def misfit(self, spec: ModelSpec, shapes: list[tuple[int, ...]]) -> str:
        """Why these are not rows of boxes, scores of the labels' classes and points."""
        table, classes, shape = table_of(spec.options, Keypoints), len(spec.labels), shapes[0]
        points, rest = divmod(shape[0] - 4 - classes, 3) if len(shape) == 2 else (0, 0)
        wanted = "3 x points" if table.names is None else f"3 x {len(table.names)}"
        if points < 1 or rest or len(table.names or range(points)) != points:
            return (
                f"the network's output for a picture is {shape}, but {classes} labels need (4 + {classes} + "
                f"{wanted}, n)"
            )
        last = max((end for line in table.skeleton or () for end in line), default=0)
        if last >= points:
            return f"the network gives {points} keypoints, but skeleton in [keypoints] has {last}"
        return ""

    def hint(self, shapes: list[tuple[int, ...]], /) -> str:
        """Rows of one class with 17 points, as YOLO-pose gives them."""
        if any(len(shape) == 2 and shape[0] == 4 + 1 + 3 * len(COCO_NAMES) for shape in shapes):
            return 'A network that gives boxes with keypoints needs task = "keypoints".'
        return ""


def _naming(table: Keypoints, points: int) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The points' names, and the lines between them."""
    is_coco = points == len(COCO_NAMES) and table.names in (None, COCO_NAMES)
    names = table.names or (COCO_NAMES if is_coco else tuple(map(str, range(points))))
    if table.skeleton is not None:
        return names, table.skeleton
    return names, COCO_SKELETON if is_coco else ()
