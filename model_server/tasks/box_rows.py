"""Ultralytics' rows of boxes with more numbers for each: of a mask, or of keypoints.

Owns their split and the check of such a network, which instance masks and keypoints share. detection.py
chooses the boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.detection_layout import Detection, DetectorOutputs
from model_server.engines.check import detection, plain_numbers

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.check.detection import DetectionVerdict
    from model_server.engines.check.plain_numbers import NumbersVerdict
    from model_server.engines.engine import Outputs

_LAYOUT: Final = Detection(layout="ultralytics")


def split(output: NDArray[np.float32], classes: int) -> tuple[DetectorOutputs, NDArray[np.float32]]:
    """Boxes with their scores, and the rest (n, numbers); views of an output (4 + classes + numbers, n)."""
    rows = output.T
    return DetectorOutputs(rows[:, :4], rows[:, 4 : 4 + classes], None), rows[:, 4 + classes :]


@dataclass(frozen=True, slots=True)
class RowsVerdict:
    """What the detector's measures say of the boxes, and that of plain numbers of the rest."""

    boxes: DetectionVerdict
    rest: NumbersVerdict
    what: str

    @property
    def agrees(self) -> bool:
        """Whether the engine may serve."""
        return self.boxes.agrees and self.rest.agrees

    def __str__(self) -> str:
        rest = self.rest
        return f"{self.boxes}; {self.what} by {rest.share:.2g} of their size (at most {rest.allowed:g})"


def compare(spec: ModelSpec, reference: Outputs, outputs: Outputs, precision: str, what: str) -> RowsVerdict:
    """Compare outputs of which the first has rows of boxes. Raises ValueError if the shapes differ."""
    end = 4 + len(spec.labels)
    (right, right_rest), (actual, actual_rest) = (
        ((side[0][:, :end],), (side[0][:, end:], *side[1:])) for side in (reference, outputs)
    )
    return RowsVerdict(
        detection.compare(spec, _LAYOUT, right, actual, precision),
        plain_numbers.compare(right_rest, actual_rest, precision),
        what,
    )
