"""Where a network's input lies on the photo that it is made of.

Owns that place for each fit: fit.py reads the photo's pixels from it, and detectors' boxes are taken back
through it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from broker.messages import Fit, InputSpec, Library


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
            if spec.library is Library.TENSORFLOW:
                return _smart(spec, original_size)
            # PIL.ImageOps.fit: the largest centred part of the input's shape, in fractions of pixels.
            scale = min(width / spec.width, height / spec.height)
            left, top = ((side - kept * scale) / 2 for side, kept in zip(original_size, target, strict=True))
            return Placement(scale, scale, left, top)
        case Fit.PAD:
            # PIL.ImageOps.pad: whole pixels on both sides of the picture.
            inner_width, inner_height = contained(spec, original_size)
            scale_x, scale_y = width / inner_width, height / inner_height
            x, y = margins(spec, (inner_width, inner_height))
            return Placement(scale_x, scale_y, -x * scale_x, -y * scale_y)


def _smart(spec: InputSpec, size: tuple[int, int]) -> Placement:
    """keras.preprocessing.image.smart_resize: the largest centred part of the shape, in whole pixels."""
    width, height = size
    # Of a picture of one pixel Keras keeps none, and fails.
    kept_width = max(1, min(width, int(height * spec.width / spec.height)))
    kept_height = max(1, min(height, int(width * spec.height / spec.width)))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return Placement(kept_width / spec.width, kept_height / spec.height, left, top)


def margins(spec: InputSpec, inner: tuple[int, int]) -> tuple[int, int]:
    """The padding (left, top) of a picture of the size `inner`."""
    x, y = spec.width - inner[0], spec.height - inner[1]
    if spec.library is Library.OPENCV:
        return x // 2, y // 2  # as ultralytics' LetterBox
    return round(x * 0.5), round(y * 0.5)


def contained(spec: InputSpec, size: tuple[int, int]) -> tuple[int, int]:
    """The size of the picture inside its padding, as PIL.ImageOps.contain rounds it."""
    width, height = size
    if width * spec.height > height * spec.width:
        return spec.width, max(1, round(height / width * spec.width))
    return max(1, round(width / height * spec.height)), spec.height
