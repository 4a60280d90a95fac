"""A drawing on paper, found and placed as MNIST places its digits.

Owns the search for ink and its framing. Works on decoded pictures only; knows no upload, no format and
no model.
"""

import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_Number = TypeVar("_Number", bound=np.generic)

# A drawing is looked for on a copy whose long side is at most this: ample for a 20-pixel digit, and
# it keeps the search under a millisecond whatever was uploaded.
_SEARCH_SIDE: Final = 280
# The border's pixels this near (of 255) to their median are paper, more or less lit; others are ink that
# touches the border.
_PAPER_SPREAD: Final = 48
# What counts as ink: this share of the strongest contrast against the paper. Higher cuts off the faint parts
# of a stroke, lower lets in JPEG's rings (of 4000 redrawn digits 98.0 % were read at 0.3, 98.5 % at 0.15).
_SHARE: Final = 0.18
# From this quantile of its ink on a drawing is white: else the one spot where two thin strokes cross would
# be, and the strokes grey. MNIST's own digits change by less than one level on average.
_FULL_QUANTILE: Final = 0.75
# Below this contrast (of 255) there is no drawing, only the noise of an empty page.
_MIN_CONTRAST: Final = 16
# MNIST fits a digit into 20 of 28 pixels and centres it by mass (LeCun et al. 1998, section III.A).
_BOX_SHARE: Final = 20 / 28


def placed(image: Image.Image, target: tuple[int, int]) -> Image.Image | None:
    """Find the drawing and place it as MNIST does: light on black, 20/28 of the frame, centred by mass.

    Whatever differs most from the paper is the ink, darker or lighter; a picture out of MNIST comes back
    as it is, but for its brightness. `target` is (width, height); the result has mode L. None for an even
    page.
    """
    frame = Image.new("L", target)
    ink = _ink(image if image.mode == "L" else image.convert("L"))
    if ink.max() < _MIN_CONTRAST:
        return None
    ink = _boxed(ink)
    scale = _BOX_SHARE * min(target) / max(ink.shape)
    width, height = max(1, round(ink.shape[1] * scale)), max(1, round(ink.shape[0] * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    drawing = np.asarray(Image.fromarray(ink).resize((width, height), resample))
    strokes = np.sort(drawing[drawing > drawing.max() * _SHARE])
    full = float(strokes[int(strokes.size * _FULL_QUANTILE)])
    drawing = np.clip(drawing * (255 / full), 0, 255)
    centre_x = drawing.sum(axis=0) @ np.arange(width) / drawing.sum()
    centre_y = drawing.sum(axis=1) @ np.arange(height) / drawing.sum()
    left = min(max(round(target[0] / 2 - centre_x), 0), target[0] - width)
    top = min(max(round(target[1] / 2 - centre_y), 0), target[1] - height)
    frame.paste(Image.fromarray(drawing.round().astype(np.uint8)), (left, top))
    return frame


def _ink(grey: Image.Image) -> NDArray[np.float32]:
    """How far each pixel of a small copy is from the paper, 0 to 255, and 0 within the paper's noise."""
    copy = grey.reduce(max(1, math.ceil(max(grey.size) / _SEARCH_SIDE)))
    pixels = np.asarray(copy, dtype=np.float32)
    depth = pixels - _paper(pixels)
    if depth.max() < -depth.min():
        depth = -depth
    noise = 6 * float(np.median(np.abs(border(depth))))  # four standard deviations
    return np.where(depth > max(noise, 1), depth, np.float32(0))


def _paper(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The paper's brightness everywhere: a plane through the border's, for a lamp lights it unevenly."""
    height, width = pixels.shape
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    edge = border(pixels)
    is_paper = np.abs(edge - np.sort(edge)[edge.size // 2]) < _PAPER_SPREAD
    terms = np.stack([np.ones_like(edge), border(down), border(across)], axis=1)
    level, slope_down, slope_across = np.linalg.lstsq(terms[is_paper], edge[is_paper])[0]
    plane: NDArray[np.float64] = level + slope_down * down + slope_across * across
    return plane.astype(np.float32)


def _boxed(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of `ink` that its strokes span. A pixel with no ink beside it is a speck, not a stroke."""
    inked = np.pad(ink > ink.max() * _SHARE, 1)
    beside = inked[1:-1, :-2] | inked[1:-1, 2:] | inked[:-2, 1:-1] | inked[2:, 1:-1]
    strokes = inked[1:-1, 1:-1] & beside
    rows, columns = np.nonzero(strokes.any(axis=1))[0], np.nonzero(strokes.any(axis=0))[0]
    if not rows.size:
        return ink
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def border(pixels: NDArray[_Number]) -> NDArray[_Number]:
    """The outermost pixels, as (n, ...): on most pictures of one thing they show the background."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
