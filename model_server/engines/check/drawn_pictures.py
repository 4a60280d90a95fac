"""The images that an engine is checked on: drawn by code, photo-like, the same everywhere.

Owns their drawing, in NumPy alone. Real photos would need a licence and a decoder; noise would test too
little: a network trained on photos answers noise with one class, whatever is wrong. So photos are imitated by
the dead leaves model (Lee, Mumford and Huang 2001, "Occlusion models for natural images"): opaque discs of
power-law sizes that hide each other, which have the edges, the flat parts and the scale invariance of
photographs.
"""

import math
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.messages import Fit, InputSpec
from pictures import fixed_point

COUNT: Final = 10
"""How many images a check uses: each digit once; ten more photos detected nothing that ten did not."""

_SEED: Final = 20010418
_LEAVES: Final = 300
_LEAST_RADIUS: Final = 0.015
"""A share of the longer side: 3 pixels of 224."""
_MOST_RADIUS: Final = 0.35

# Each digit's strokes as corners in a box of width 1 and height 1, y downwards.
_STROKES: Final[tuple[tuple[tuple[float, float], ...], ...]] = (
    ((0.5, 0.05), (0.15, 0.25), (0.12, 0.75), (0.5, 0.95), (0.88, 0.75), (0.85, 0.25), (0.5, 0.05)),
    ((0.35, 0.2), (0.55, 0.05), (0.55, 0.95)),
    ((0.15, 0.25), (0.5, 0.05), (0.85, 0.28), (0.7, 0.55), (0.12, 0.95), (0.9, 0.95)),
    ((0.15, 0.12), (0.6, 0.05), (0.85, 0.25), (0.45, 0.48), (0.88, 0.72), (0.55, 0.95), (0.12, 0.88)),
    ((0.65, 0.95), (0.65, 0.05), (0.1, 0.65), (0.92, 0.65)),
    ((0.85, 0.05), (0.22, 0.05), (0.18, 0.45), (0.65, 0.42), (0.88, 0.68), (0.6, 0.95), (0.12, 0.9)),
    ((0.75, 0.05), (0.3, 0.35), (0.14, 0.7), (0.45, 0.95), (0.82, 0.78), (0.6, 0.52), (0.2, 0.62)),
    ((0.12, 0.05), (0.88, 0.05), (0.4, 0.95)),
    ((0.5, 0.5), (0.2, 0.25), (0.5, 0.05), (0.8, 0.25), (0.15, 0.76), (0.5, 0.95), (0.85, 0.76), (0.5, 0.5)),
    ((0.8, 0.4), (0.4, 0.52), (0.18, 0.25), (0.55, 0.05), (0.82, 0.25), (0.75, 0.6), (0.6, 0.95)),
)


def draw(spec: InputSpec) -> NDArray[np.uint8]:
    """The check's images for a model with the input `spec`: uint8 (COUNT, *spec.shape).

    They are digits like handwriting if the model takes drawings (`fit = "ink"`), else dead leaves.
    """
    if spec.fit is Fit.INK:
        return np.stack([_digit(number % len(_STROKES), spec) for number in range(COUNT)])
    chance = np.random.default_rng(_SEED)
    return np.ascontiguousarray(np.stack([_leaves(chance, spec) for _ in range(COUNT)]))


def _digit(digit: int, spec: InputSpec) -> NDArray[np.uint8]:
    """A digit in light strokes on black, in the middle 20 of 28 pixels, as `pictures.fit` centres it."""
    y, x = np.mgrid[: spec.height, : spec.width].astype(np.float64)
    height, width = spec.height * 20 / 28, spec.width * 14 / 28
    corners = np.asarray(_STROKES[digit]) * (width, height)
    corners += ((spec.width - width) / 2, (spec.height - height) / 2)
    nearest = np.full((spec.height, spec.width), np.inf)
    for (x0, y0), (x1, y1) in pairwise(corners):
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0))
        nearest = np.minimum(nearest, distance)
    half_stroke = spec.height / 28 * 1.1
    ink = np.clip(half_stroke + 0.5 - nearest, 0, 1)
    return np.repeat(np.rint(255 * ink).astype(np.uint8)[:, :, None], spec.channels, axis=2)


def _leaves(chance: np.random.Generator, spec: InputSpec) -> NDArray[np.uint8]:
    """An image of shaded, grainy discs, the later ones in front."""
    light = chance.uniform(-1, 1, 2)
    picture = np.broadcast_to(_colour(chance, spec.channels), spec.network_shape).astype(np.float32)
    side = max(spec.height, spec.width)
    # Radii with density r^-3: the law under which the picture looks the same at every scale.
    share = chance.uniform(0, 1, _LEAVES)
    radii = side / np.sqrt(share / _LEAST_RADIUS**2 + (1 - share) / _MOST_RADIUS**2)
    for radius in np.sort(radii)[::-1] if chance.uniform() < 0.5 else radii:
        centre_x, centre_y = chance.uniform(0, spec.width), chance.uniform(0, spec.height)
        # Around the disc alone: most are small, and whole pictures of 320 x 320 took three seconds.
        rows, columns = _span(centre_y, radius, spec.height), _span(centre_x, radius, spec.width)
        part = picture[rows, columns]
        dx, dy = _offsets(columns, centre_x) / radius, _offsets(rows, centre_y)[:, None] / radius
        inside = dx * dx + dy * dy < 1
        shade = 40 * (dx * light[0] + dy * light[1])[inside][:, None]
        part[inside] = _colour(chance, spec.channels) + shade
    picture += chance.normal(0, 4, picture.shape)  # a sensor's grain
    if spec.keeps_fractions:
        return fixed_point.split(picture)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _span(centre: float, radius: float, side: int) -> slice:
    """The pixels of a row or a column, `side` long, that a disc may cover."""
    return slice(max(0, math.floor(centre - radius)), min(side, math.ceil(centre + radius) + 1))


def _offsets(span: slice, centre: float) -> NDArray[np.float32]:
    """How far each pixel of a span is from the centre."""
    return np.arange(span.start, span.stop, dtype=np.float32) - np.float32(centre)


def _colour(chance: np.random.Generator, channels: int) -> NDArray[np.float64]:
    """A colour whose channels are correlated, as in photographs."""
    colour: NDArray[np.float64] = chance.uniform(10, 245) + chance.normal(0, 35, channels)
    return colour
