"""From the pixels of a network's input back to those of the photo, through the fit that made the input.

Owns the inverse of what pictures/fit.py does with a photo; a test takes pictures there and back.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.messages import Fit, InputSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an input lies on its photo: a photo's x is `left` + the input's x times `scale_x`, y likewise."""

    scale_x: float
    scale_y: float
    left: float
    top: float

    def on_photo(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes (n, 4) as x1, y1, x2, y2, from the input's pixels to the photo's, some beyond its edges."""
        scale = (self.scale_x, self.scale_y, self.scale_x, self.scale_y)
        placed: NDArray[np.float64] = corners * scale + (self.left, self.top, self.left, self.top)
        return placed


def place(spec: InputSpec, original_size: tuple[int, int]) -> Placement:
    """Where the input of a photo of that (width, height) lies on it.

    `ink` frames what is drawn, which only the web tier has seen: it is taken as `stretch`, and detection
    refuses it in the catalogue.
    """
    width, height = original_size
    target = (spec.width, spec.height)
    match spec.fit:
        case Fit.STRETCH | Fit.INK:
            return Placement(width / spec.width, height / spec.height, 0.0, 0.0)
        case Fit.CROP if spec.resize:
            # torchvision's Resize and CenterCrop, in whole pixels of what is resized.
            shortest = min(original_size)
            resized = [
                spec.resize if side == shortest else spec.resize * side // shortest for side in original_size
            ]
            scale_x, scale_y = width / resized[0], height / resized[1]
            x, y = (round((side - kept) / 2) for side, kept in zip(resized, target, strict=True))
            return Placement(scale_x, scale_y, x * scale_x, y * scale_y)
        case Fit.CROP:
            # PIL.ImageOps.fit: the largest centred part of the input's shape, in fractions of pixels.
            scale = min(width / spec.width, height / spec.height)
            left, top = ((side - kept * scale) / 2 for side, kept in zip(original_size, target, strict=True))
            return Placement(scale, scale, left, top)
        case Fit.PAD:
            # PIL.ImageOps.pad: whole pixels on both sides of the picture, so the rounding is repeated here.
            inner_width, inner_height = _contained(spec, original_size)
            scale_x, scale_y = width / inner_width, height / inner_height
            x = round((spec.width - inner_width) * 0.5)
            y = round((spec.height - inner_height) * 0.5)
            return Placement(scale_x, scale_y, -x * scale_x, -y * scale_y)


def _contained(spec: InputSpec, size: tuple[int, int]) -> tuple[int, int]:
    """The size of the picture inside its padding, as PIL.ImageOps.contain rounds it."""
    width, height = size
    if width * spec.height > height * spec.width:
        return spec.width, max(1, round(height / width * spec.width))
    return max(1, round(width / height * spec.height)), spec.height
