"""Compares a detector's boxes and probabilities with those of plain Keras.

Owns the measures and their tolerances; agreement.py refuses. All boxes count, not only those that would be
reported: drawn images may have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue import detection_layout

if TYPE_CHECKING:
    from model_server.catalogue.detection_layout import Detection
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs


@dataclass(frozen=True, slots=True)
class DetectionTolerance:
    """How far an engine may be from the reference."""

    peak: float
    """The largest difference of a probability."""
    log: float
    """The root mean square difference of an image's log-probabilities, as a share of their range: the first
    measure overlooks errors in small probabilities. A mean, because the worst of 100,000 is an outlier."""
    box: float
    """The root mean square over an image's boxes of 1 less their overlap (intersection over union) with the
    reference's. A share of a box's own size: pixels that spoil a small box do nothing to a large one."""


TOLERANCES: Final = {
    # Measured (peak, log, box) on OpenVINO. fp32: Yolo-Fastest-xl 1e-6, 1e-7, 1e-6; YOLOv3-tiny with random
    # weights 3e-7, 2e-7, 4e-6.
    "fp32": DetectionTolerance(0.001, 0.0005, 0.0005),
    # bf16: Yolo-Fastest-xl 0.03, 0.008, 0.032; YOLOv3-tiny 0.001, 0.0007, 0.003. The faults to detect, on the
    # former: channels in the wrong order 0.16, 0.036, 0.16; a forgotten normalisation 0.22, 0.22, 0.53; an
    # image shifted by one pixel 0.12, 0.023, 0.14; anchors a tenth too wide 0, 0, 0.09.
    "bf16": DetectionTolerance(0.1, 0.015, 0.06),
    "fp16": DetectionTolerance(0.1, 0.015, 0.06),
    # Compared with its own outputs from when it was made (see agreement.py).
    "int8": DetectionTolerance(0.3, 0.05, 0.15),
}

_LEAST_PROBABILITY: Final = 1e-30


@dataclass(frozen=True, slots=True)
class DetectionVerdict:
    """The result of a comparison, for the worst image (see DetectionTolerance), and what is allowed."""

    pictures: int
    peak: float
    log: float
    box: float
    tolerance: DetectionTolerance

    @property
    def agrees(self) -> bool:
        """Whether the engine may serve. A difference of NaN is too large."""
        allowed = self.tolerance
        return self.peak <= allowed.peak and self.log <= allowed.log and self.box <= allowed.box

    def __str__(self) -> str:
        return (
            f"on {self.pictures} pictures probabilities differ by {self.peak:.2g} (at most "
            f"{self.tolerance.peak:g}), log-probabilities by {self.log:.2g} of their range (at most "
            f"{self.tolerance.log:g}), boxes by {self.box:.2g} of their overlap (at most "
            f"{self.tolerance.box:g})"
        )


def compare(
    spec: ModelSpec, layout: Detection, reference: Outputs, outputs: Outputs, precision: str
) -> DetectionVerdict:
    """Compare a detector's outputs, with the images as first axis. Raises ValueError if the shapes differ."""
    shapes = [[output.shape for output in side] for side in (reference, outputs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the outputs' shapes are {shapes[1]}, but those of plain Keras are {shapes[0]}")
    pairs = [
        tuple(
            _corners_and_probabilities(spec, layout, [output[row] for output in side])
            for side in (reference, outputs)
        )
        for row in range(len(reference[0]))
    ]
    # NumPy's maximum, because that of a number and NaN is NaN.
    return DetectionVerdict(
        pictures=len(pairs),
        peak=float(np.max([np.abs(right[1] - actual[1]).max() for right, actual in pairs])),
        log=float(np.max([_log(right[1], actual[1]) for right, actual in pairs])),
        box=float(np.max([_box(right[0], actual[0]) for right, actual in pairs])),
        tolerance=TOLERANCES[precision],
    )


def _corners_and_probabilities(
    spec: ModelSpec, layout: Detection, outputs: list[NDArray[np.float32]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners (n, 4) and probabilities (n, classes) of one image."""
    arranged = detection_layout.arrange(tuple(outputs), layout, len(spec.labels))
    probabilities = arranged.scores.astype(np.float64)
    if arranged.objectness is not None:
        probabilities *= arranged.objectness[:, None]
    return detection_layout.corners(
        arranged.boxes, layout, (spec.input.width, spec.input.height)
    ), probabilities


def _log(right: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    if not np.isfinite(actual).all():
        return np.inf
    logs = [np.log(np.maximum(side, _LEAST_PROBABILITY)) for side in (right, actual)]
    span = max(float(np.ptp(logs[0])), 1.0)
    return float(np.sqrt(np.mean((logs[0] - logs[1]) ** 2)) / span)


def _box(right: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    if not np.isfinite(actual).all():
        return np.inf
    inner = np.minimum(right[:, 2:], actual[:, 2:]) - np.maximum(right[:, :2], actual[:, :2])
    shared = inner.clip(0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (right, actual)]
    joined = areas[0] + areas[1] - shared
    # Boxes without an area overlap with nothing: they agree if they are equal.
    same = np.isclose(right, actual, atol=1e-3).all(axis=1)
    overlap = np.where(joined > 0, shared / np.maximum(joined, 1e-9), same)
    return float(np.sqrt(np.mean((1 - overlap) ** 2)))
