"""From a network's maps to masks on the photo: where each pixel of a mask lies on a map, and the sampling.

Owns the bilinear sampling of maps, in the arithmetic of PyTorch's `interpolate` with `align_corners=False`.
What lies outside of the network's input has no value, and its padding is never sampled. Masks are worked on
column by column, as (width, height), because COCO's run lengths count so. Knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from broker.messages import Fit
from pictures import geometry

if TYPE_CHECKING:
    from broker.messages import InputSpec

Floats = NDArray[np.float32]
Classes = NDArray[np.int16]
Places = NDArray[np.intp]

_Number = TypeVar("_Number", np.int16, np.bool_, np.float32)

_BLOCK: Final = 1 << 15
"""Pixels that are sampled at once, so that they stay in the processor's cache."""

_MANY: Final = 0.15
"""From this share of pixels on, sampling all of them is faster than looking each one up."""


@dataclass(frozen=True, slots=True)
class MapAxis:
    """Where the pixels of a mask lie along one side of a map; those before `start` and from `stop` on do not.

    A pixel is between `first` and `second`, and has that share of the second.
    """

    start: int
    stop: int
    first: Places
    second: Places
    share: Floats

    def part(self, begin: int, end: int) -> MapAxis:
        """The pixels from `begin` to `end`, of those that lie on the map."""
        return MapAxis(begin, end, self.first[begin:end], self.second[begin:end], self.share[begin:end])


def axes(
    spec: InputSpec, original_size: tuple[int, int], mask_size: tuple[int, int], map_size: tuple[int, int]
) -> tuple[MapAxis, MapAxis]:
    """The axes of a photo's masks on a map of the network's input; sizes are (width, height)."""
    where = geometry.place(spec, original_size)
    return (
        _axis(mask_size[0], original_size[0], (where.scale_x, where.left), spec.width, map_size[0]),
        _axis(mask_size[1], original_size[1], (where.scale_y, where.top), spec.height, map_size[1]),
    )


def _axis(pixels: int, photo: int, place: tuple[float, float], side: int, length: int) -> MapAxis:
    scale, start = place
    cells = length / side
    # In cells of the map: each pixel's centre, and what the photo covers of it.
    centres = ((np.arange(pixels) + 0.5) * (photo / pixels) - start) / scale * cells
    covered = np.flatnonzero((centres >= 0) & (centres < length))
    begin, end = int(covered[0]), int(covered[-1]) + 1
    least = max(0, round(-start / scale * cells - 0.49))
    most = max(least, min(length, round((photo - start) / scale * cells + 0.49)) - 1)
    exact = (centres[begin:end] - 0.5).clip(least, most)
    first = exact.astype(np.intp)
    return MapAxis(begin, end, first, np.minimum(first + 1, most), (exact - first).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling of a map to masks of a photo, in one step or two along each side."""

    x: tuple[MapAxis, ...]
    """The last is the mask's."""
    y: tuple[MapAxis, ...]

    @staticmethod
    def of(
        spec: InputSpec,
        original_size: tuple[int, int],
        mask_size: tuple[int, int],
        map_shape: tuple[int, int],
    ) -> Sampling:
        """In the steps of Ultralytics' process_mask_native, which enlarges a map to cut its padding off."""
        height, width = map_shape
        factor = _finer(spec, original_size, width)
        x, y = axes(spec, original_size, mask_size, (factor * width, factor * height))
        if factor == 1:
            return Sampling((x,), (y,))
        return Sampling((_enlarging(width, factor), x), (_enlarging(height, factor), y))

    def part(self, plane: Floats, area: tuple[int, int, int, int]) -> tuple[Floats, int, int]:
        """A map, (height, width), in an area of the mask, (columns, rows); with its first column and row.

        The area is left, top, right, bottom; what is not on the map is cut off.
        """
        x, y = self.x[-1], self.y[-1]
        left, right = max(area[0], x.start), min(area[2], x.stop)
        top, bottom = max(area[1], y.start), min(area[3], y.stop)
        if left >= right or top >= bottom:
            return np.zeros((0, 0), np.float32), left, top
        columns, across = _around(self.x, left - x.start, right - x.start)
        rows, down = _around(self.y, top - y.start, bottom - y.start)
        sampled = np.ascontiguousarray(plane[rows, columns])
        for axis in down:
            sampled = _between(sampled, axis)
        sampled = np.ascontiguousarray(sampled.T)
        for axis in across:
            sampled = _between(sampled, axis)
        return sampled, left, top


def _around(steps: tuple[MapAxis, ...], begin: int, end: int) -> tuple[slice, list[MapAxis]]:
    """The part of a map's side that some pixels are sampled from, and the steps from there to them."""
    parts: list[MapAxis] = []
    for axis in reversed(steps):
        part = axis.part(begin, end)
        begin, end = int(part.first[0]), int(part.second[-1]) + 1
        parts.insert(0, MapAxis(0, len(part.first), part.first - begin, part.second - begin, part.share))
    return slice(begin, end), parts


def _between(rows: Floats, axis: MapAxis) -> Floats:
    """Rows between rows. By hand: BLAS would take other threads from the network, and wait for them."""
    sampled = rows.take(axis.second, axis=0)
    first = rows.take(axis.first, axis=0)
    sampled -= first
    sampled *= axis.share[:, None]
    sampled += first
    return sampled


def _finer(spec: InputSpec, original_size: tuple[int, int], map_width: int) -> int:
    """How much a map must be enlarged for the input's padding to end between two of its cells."""
    if spec.fit is not Fit.PAD:
        return 1
    stride = max(1, spec.width // map_width)
    inner = geometry.contained(spec, original_size)
    left, top = geometry.margins(spec, inner)
    return stride // math.gcd(stride, left, top, spec.width - inner[0] - left, spec.height - inner[1] - top)


def _enlarging(length: int, factor: int) -> MapAxis:
    """The axis of a map's side that is enlarged."""
    exact = ((np.arange(factor * length) + 0.5) / factor - 0.5).clip(0, length - 1)
    first = exact.astype(np.intp)
    share = (exact - first).astype(np.float32)
    return MapAxis(0, len(first), first, np.minimum(first + 1, length - 1), share)


def nearest(cells: NDArray[_Number], x: MapAxis, y: MapAxis) -> NDArray[_Number]:
    """The cell of a map, (height, width), that each pixel lies in: (width, height)."""
    columns, rows = (np.where(axis.share < 0.5, axis.first, axis.second) for axis in (x, y))
    return _gathered(cells, columns, rows)


def _gathered(cells: NDArray[_Number], columns: Places, rows: Places) -> NDArray[_Number]:
    return np.ascontiguousarray(cells.take(rows, axis=0).T).take(columns, axis=0)


def classes(scores: Floats, best: Classes, x: MapAxis, y: MapAxis) -> Classes:
    """The best class of every pixel that lies on the map, (width, height).

    `scores` are (classes, rows, columns), `best` the best class of each cell. Only where the cells around a
    pixel differ are its scores sampled: a class that is best in all of them is the best between them.
    """
    right, below = np.roll(best, -1, 1), np.roll(best, -1, 0)
    is_plain = (best == right) & (best == below) & (best == np.roll(right, -1, 0))
    is_plain[-1] = is_plain[:, -1] = False
    pixels = _gathered(best, x.first, y.first)
    mixed = np.flatnonzero(~_gathered(is_plain, x.first, y.first))
    if len(mixed) > _MANY * pixels.size:
        return _best_everywhere(scores, x, y)
    flat = pixels.reshape(-1)
    for at in range(0, len(mixed), _BLOCK):
        block = mixed[at : at + _BLOCK]
        flat[block] = _best_between(scores, x, y, *np.divmod(block, pixels.shape[1]))
    return pixels


def _best_everywhere(scores: Floats, x: MapAxis, y: MapAxis) -> Classes:
    def sampled(plane: Floats) -> Floats:
        return _between(np.ascontiguousarray(_between(plane, y).T), x)

    return _best(sampled(plane) for plane in scores)[0]


def _best_between(scores: Floats, x: MapAxis, y: MapAxis, columns: Places, rows: Places) -> Classes:
    width = scores.shape[2]
    across, down = x.share[columns], y.share[rows]
    left, right = x.first[columns], x.second[columns]
    above, below = y.first[rows] * width, y.second[rows] * width
    places = [above + left, above + right, below + left, below + right]
    shares = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across]

    def sampled(plane: Floats) -> Floats:
        value: Floats = plane.take(places[0]) * shares[0]
        for place, share in zip(places[1:], shares[1:], strict=True):
            value += plane.take(place) * share
        return value

    return _best(sampled(plane) for plane in scores.reshape(len(scores), -1))[0]


def best_of(scores: Floats) -> tuple[Classes, Floats]:
    """The best class of each cell, and its score."""
    return _best(iter(scores))


def _best(planes: Iterator[Floats]) -> tuple[Classes, Floats]:
    """`argmax` over a first axis takes several times as long."""
    highest = next(planes).copy()
    best = np.zeros(highest.shape, np.int16)
    for number, plane in enumerate(planes, start=1):
        np.copyto(best, np.int16(number), where=plane > highest)
        np.maximum(highest, plane, out=highest)
    return best, highest
