"""How a detector's outputs are laid out, and which of them are detections: model.toml's `[detection]`.

Owns the names and the defaults, and splits outputs by them. Importers put outputs in the order named here;
tasks/detection.py decides which boxes are reported.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Output = Annotated[int, msgspec.Meta(ge=0)] | str
"""An output by its number among the network's outputs, or by its name."""

Floats = NDArray[np.float32] | NDArray[np.float64]

MOST_DETECTIONS: Final = 1_000
"""The most that a client may ask for (`top`)."""


class Detection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which of a network's outputs are detections, and how they are laid out.

    `layout` is `separate`, with boxes (n, 4), scores (n, classes) and perhaps objectness (n); or
    `ultralytics`, the single output (4 + classes, n) of YOLOv8 and later as Ultralytics exports it: `boxes`
    names it, and the other fields are ignored.
    """

    confidence: Share = 0.4
    """The least probability that is reported."""
    nms_iou: Share = 0.45
    """Of two boxes of one class that overlap more, only the better is reported (Darknet's own default)."""
    layout: Literal["separate", "ultralytics"] = "separate"
    boxes: Output = 0
    scores: Output = 1
    objectness: Output | None = None
    """If it is set, a class's probability is its score times this output."""
    format: Literal["xyxy", "yxyx", "xywh", "cxcywh"] = "xyxy"
    """Two corners; the upper left corner and the sides; or the centre and the sides."""
    units: Literal["relative", "pixels"] = "relative"
    """Relative to the network's input (0..1), or in its pixels."""

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs that are read, in the order in which engines give them."""
        if self.layout == "ultralytics":
            return (self.boxes,)
        outputs = (self.boxes, self.scores)
        return outputs if self.objectness is None else (*outputs, self.objectness)


LAYOUT_FIELDS: Final = ("layout", "boxes", "scores", "objectness", "format", "units")
"""The fields that a Darknet network's model.toml may not set: our own converter makes its outputs."""


def of_darknet(thresholds: Detection) -> Detection:
    """The thresholds of `thresholds` with the layout in which darknet/ gives its outputs."""
    return Detection(
        confidence=thresholds.confidence,
        nms_iou=thresholds.nms_iou,
        boxes=0,
        scores=1,
        objectness=2,
        format="cxcywh",
        units="relative",
    )


def misfit(detection: Detection, shapes: list[tuple[int, ...]], classes: int) -> str:
    """Why outputs of these shapes, for one image, are not detections of `classes` classes; else empty."""
    sizes = [math.prod(shape) for shape in shapes]
    if len(sizes) == len(detection.outputs):
        if detection.layout == "ultralytics":
            if shapes[0][:1] == (4 + classes,) or shapes[0][:2] == (1, 4 + classes):
                return ""
        else:
            boxes, rest = divmod(sizes[0], 4)
            if not rest and sizes[1:] == [boxes * classes, boxes][: len(sizes) - 1]:
                return ""
    expected = {
        "ultralytics": f"one of (4 + {classes}, n)",
        "separate": f"(n, 4), (n, {classes})" + (", (n)" if detection.objectness is not None else ""),
    }[detection.layout]
    actual = ", ".join(map(str, shapes))
    return f"the network's outputs for a picture are {actual}, but {classes} labels need {expected}"


@dataclass(frozen=True, slots=True)
class DetectorOutputs:
    """A network's outputs for one image, split into views; nothing is copied."""

    boxes: Floats
    """(n, 4), in the network's own format."""
    scores: Floats
    """(n, classes)."""
    objectness: Floats | None
    """(n), if the network gives it."""


def arrange(outputs: tuple[Floats, ...], detection: Detection, classes: int) -> DetectorOutputs:
    """Split outputs for one image, in the order of `detection.outputs`. Raises ValueError on a misfit."""
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
    """Convert boxes from the network's format to x1, y1, x2, y2 in pixels of its input of (width, height)."""
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
    both = np.concatenate([first, second], axis=1)
    return both if is_ultralytics or detection.units == "pixels" else both * (*size, *size)
