"""How a detector's outputs are laid out, and what of them is a detection: model.toml's `[detection]`.

Owns the names, the defaults, and taking outputs apart by them. Importers put outputs in the order that it
names; which boxes are told is tasks/detection.py's.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Output = Annotated[int, msgspec.Meta(ge=0)] | str
"""An output by its place among the network's, or by its name."""

Floats = NDArray[np.float32] | NDArray[np.float64]

MOST_DETECTIONS: Final = 1_000
"""The most that a client may ask for (`top`)."""


class Detection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a network's outputs is a detection, and how they are laid out.

    `layout`: `separate`, boxes (n, 4) and scores (n, classes) and perhaps objectness (n); or `ultralytics`,
    the one output (4 + classes, n) of YOLOv8 and later as Ultralytics exports it: `boxes` names it, and the
    others are not looked at.
    """

    confidence: Share = 0.4
    """The least probability that is told."""
    nms_iou: Share = 0.45
    """Of two boxes of one class that overlap more, only the better is told (Darknet's own default)."""
    layout: Literal["separate", "ultralytics"] = "separate"
    boxes: Output = 0
    scores: Output = 1
    objectness: Output | None = None
    """Where there is one, a class's probability is its score times this."""
    format: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    """Two corners, or the upper left corner or the centre and the sides."""
    units: Literal["relative", "pixels"] = "relative"
    """Of the network's input: 0..1, or 0..width and 0..height."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that are read, in the order in which engines give them."""
        if self.layout == "ultralytics":
            return (self.boxes,)
        named = (self.boxes, self.scores)
        return named if self.objectness is None else (*named, self.objectness)


LAYOUT_FIELDS: Final = ("layout", "boxes", "scores", "objectness", "format", "units")
"""What a Darknet network leaves no choice of: its outputs are made by our own converter."""


def of_darknet(told: Detection) -> Detection:
    """The thresholds of `told` with the layout in which darknet/ gives its outputs."""
    return Detection(
        confidence=told.confidence,
        nms_iou=told.nms_iou,
        boxes=0,
        scores=1,
        objectness=2,
        format="cxcywh",
        units="relative",
    )


def misfit(detection: Detection, shapes: list[tuple[int, ...]], classes: int) -> str:
    """Why outputs of these shapes, for one picture, are no detections of so many classes; else empty."""
    sizes = [math.prod(shape) for shape in shapes]
    if len(sizes) == len(detection.outputs):
        if detection.layout == "ultralytics":
            if shapes[0][:1] == (4 + classes,) or shapes[0][:2] == (1, 4 + classes):
                return ""
        else:
            boxes, rest = divmod(sizes[0], 4)
            if not rest and sizes[1:] == [boxes * classes, boxes][: len(sizes) - 1]:
                return ""
    wanted = {
        "ultralytics": f"one of (4 + {classes}, n)",
        "separate": f"(n, 4), (n, {classes})" + (", (n)" if detection.objectness is not None else ""),
    }[detection.layout]
    found = ", ".join(map(str, shapes))
    return f"the network's outputs for a picture are {found}, but {classes} labels need {wanted}"


@dataclass(frozen=True, slots=True)
class DetectorOutputs:
    """A network's outputs for one picture, taken apart; views, nothing is copied."""

    boxes: Floats
    """(n, 4), in the network's own format."""
    scores: Floats
    """(n, classes)."""
    objectness: Floats | None
    """(n), where the network tells it."""


def arrange(outputs: tuple[Floats, ...], detection: Detection, classes: int) -> DetectorOutputs:
    """Outputs for one picture, in the order of `detection.outputs`. Raises ValueError if they do not fit."""
    problem = misfit(detection, [output.shape for output in outputs], classes)
    if problem:
        raise ValueError(problem)
    if detection.layout == "ultralytics":
        rows = outputs[0].reshape(4 + classes, -1).T
        return DetectorOutputs(rows[:, :4], rows[:, 4:], None)
    boxes = outputs[0].reshape(-1, 4)
    objectness = outputs[2].reshape(-1) if len(outputs) > 2 else None
    return DetectorOutputs(boxes, outputs[1].reshape(len(boxes), classes), objectness)


def corners(boxes: Floats, detection: Detection, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes in the network's format as x1, y1, x2, y2 in pixels of its input of (width, height)."""
    exact = boxes.astype(np.float64)
    first, second = exact[:, :2], exact[:, 2:]
    is_ultralytics = detection.layout == "ultralytics"
    match "cxcywh" if is_ultralytics else detection.format:
        case "yxyx":
            first, second = first[:, ::-1], second[:, ::-1]
        case "xywh":
            second = first + second
        case "cxcywh":
            first, second = first - second / 2, first + second / 2
    found = np.concatenate([first, second], axis=1)
    return found if is_ultralytics or detection.units == "pixels" else found * (*size, *size)
