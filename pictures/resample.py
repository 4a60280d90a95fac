"""Resizing as the library does that a network was trained with.

Owns the arithmetic of Pillow, TensorFlow and OpenCV. They differ even where the kernel has one name: where a
picture shrinks, Pillow widens it (antialiasing); tf.image and OpenCV read four pixels, whatever the scale.
Knows no fit: its caller says which part of the picture becomes how many pixels.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from broker.messages import Library, Resample

_CV_BITS: Final = 11
"""OpenCV's weights of uint8 pixels are whole numbers of 1/2048 (INTER_RESIZE_COEF_BITS)."""

_TF_TABLE: Final = 1024
"""tf.image's bicubic weights come from a table with so many steps between two pixels."""

_LEAST: Final = 1e-3
"""OpenCV leaves out a pixel of which an area covers less."""

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
_Weight = TypeVar("_Weight", np.float32, np.int32)


@dataclass(frozen=True, slots=True)
class Axis:
    """A part of a picture's side that becomes `count` pixels, each `scale` of the picture's pixels wide."""

    start: float
    scale: float
    count: int
    size: int
    """The whole side, in pixels."""

    @property
    def centres(self) -> NDArray[np.float64]:
        """Where the new pixels' centres lie, counted in the picture's pixels from the centre of its first."""
        return np.asarray(self.start + (np.arange(self.count) + 0.5) * self.scale - 0.5, np.float64)

    @property
    def places(self) -> Floats:
        """The same counted from the picture's edge, in TensorFlow's float32."""
        return np.float32(self.start) + (np.arange(self.count, dtype=np.float32) + 0.5) * np.float32(
            self.scale
        )


def resized(image: Image.Image, x: Axis, y: Axis, kernel: Resample, library: Library) -> Pixels:
    """The part of `image` (mode L or RGB) that the axes name: uint8 (y.count, x.count[, 3]), rounded."""
    if library is Library.PILLOW:
        end_x, end_y = x.start + x.scale * x.count, y.start + y.scale * y.count
        box = (max(0.0, x.start), max(0.0, y.start), min(end_x, image.width), min(end_y, image.height))
        return np.asarray(image.resize((x.count, y.count), Image.Resampling[kernel.name], box), np.uint8)
    if library is Library.TENSORFLOW and kernel is not Resample.NEAREST:
        return _rounded(with_fractions(image, x, y, kernel))
    pixels = np.asarray(image, np.uint8)
    rows = pixels.reshape(*pixels.shape[:2], -1)
    found = _like_opencv(rows, x, y, kernel) if library is Library.OPENCV else _tf_nearest(rows, x, y)
    return found.reshape(y.count, x.count, *pixels.shape[2:])


def with_fractions(image: Image.Image, x: Axis, y: Axis, kernel: Resample) -> Floats:
    """The same as tf.image.resize gives it, as float32: not rounded, and with `bicubic` beyond 0 and 255."""
    pixels = np.asarray(image, np.uint8)
    found = _like_tensorflow(pixels.reshape(*pixels.shape[:2], -1), x, y, kernel)
    return found.reshape(y.count, x.count, *pixels.shape[2:])


def resized_and_cut(
    image: Image.Image,
    whole: tuple[int, int],
    corner: tuple[int, int],
    size: tuple[int, int],
    kernel: Resample,
) -> Pixels:
    """All of `image` resized to `whole` by Pillow, and of that the part from `corner` on, of this size.

    As torchvision does. A box of the resize rounds otherwise: 0.2 on average at one size of six.
    """
    left, top = corner
    resized_whole = image.resize(whole, Image.Resampling[kernel.name])
    return np.asarray(resized_whole.crop((left, top, left + size[0], top + size[1])), np.uint8)


def _tf_nearest(pixels: Pixels, x: Axis, y: Axis) -> Pixels:
    at_x, at_y = (_inside(np.floor(axis.places), axis.size) for axis in (x, y))
    return pixels.take(at_y, 0).take(at_x, 1)


def _like_tensorflow(pixels: Pixels, x: Axis, y: Axis, kernel: Resample) -> Floats:
    """tf.image.resize without antialias. (tensorflow/core/kernels/image/resize_*_op.cc, 2.x)."""
    match kernel:
        case Resample.AREA:
            return _averaged(pixels, _coverage(x), _coverage(y))
        case Resample.BICUBIC:
            return _weighted(pixels, _keys_taps(x), _keys_taps(y))
        case _:
            return _interpolated(pixels, x, y)


def _interpolated(pixels: Pixels, x: Axis, y: Axis) -> Floats:
    (left, right, share_x), (above, below, share_y) = _neighbours(x), _neighbours(y)
    rows = []
    for at in (above, below):
        row = pixels.take(at, 0)
        first, second = (row.take(column, 1).astype(np.float32) for column in (left, right))
        rows.append(first + (second - first) * share_x[:, None])
    return rows[0] + (rows[1] - rows[0]) * share_y[:, None, None]


def _neighbours(axis: Axis) -> tuple[Indices, Indices, Floats]:
    """The pixels around each new one's centre, and how far it is from the first to the second."""
    centres = axis.places - np.float32(0.5)
    before = np.floor(centres)
    return _inside(before, axis.size), _inside(np.ceil(centres), axis.size), centres - before


def _keys_taps(axis: Axis) -> tuple[Indices, Floats]:
    """Keys 1981 with a = -1/2; pixels beyond the edge count for nothing."""
    centres = axis.places - np.float32(0.5)
    below = np.floor(centres)
    step = np.rint((centres - below) * _TF_TABLE) / _TF_TABLE
    weights = _cubic(step.astype(np.float32), -0.5)
    wanted = below + np.arange(-1, 3)[:, None]
    indices = _inside(wanted, axis.size)
    weights = np.where(indices == wanted, weights, np.float32(0))
    return indices, weights / weights.sum(axis=0)


def _cubic(share: Floats, a: float) -> Floats:
    """The weights of the two pixels before and the two after a place that is `share` beyond the second."""

    def near(distance: Floats) -> Floats:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1

    def far(distance: Floats) -> Floats:
        return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a

    return np.stack([far(1 + share), near(share), near(1 - share), far(2 - share)]).astype(np.float32)


def _weighted(pixels: Pixels, x: tuple[Indices, Floats], y: tuple[Indices, Floats]) -> Floats:
    """The sum of the pixels at each row's and each column's taps, with their weights."""
    rows = (_weighted_columns(pixels, at_y, x) * of_y[:, None, None] for at_y, of_y in zip(*y, strict=True))
    return np.asarray(sum(rows), np.float32)


def _weighted_columns(pixels: Pixels, rows: Indices, x: tuple[Indices, NDArray[_Weight]]) -> NDArray[_Weight]:
    """Of these rows, the sum of the pixels at each column's taps, with their weights."""
    source = pixels.take(rows, 0)
    total = sum(source.take(at_x, 1) * of_x[:, None] for at_x, of_x in zip(*x, strict=True))
    return np.asarray(total, x[1].dtype)


def _like_opencv(pixels: Pixels, x: Axis, y: Axis, kernel: Resample) -> Pixels:
    """cv2.resize of uint8. (modules/imgproc/src/resize.cpp, 4.x)."""
    is_halved = x.scale == y.scale == 2 and kernel in (Resample.BILINEAR, Resample.AREA)
    if is_halved and float(x.start).is_integer() and float(y.start).is_integer():
        return _halved(pixels, x, y)
    match kernel:
        case Resample.NEAREST:  # from each new pixel's corner, not from its centre
            at_x, at_y = (
                _inside(np.floor(axis.start + np.arange(axis.count) * axis.scale), axis.size)
                for axis in (x, y)
            )
            return pixels.take(at_y, 0).take(at_x, 1)
        case Resample.AREA if x.scale >= 1 and y.scale >= 1:
            return _rounded(_cv_averaged(pixels, x, y))
        case Resample.AREA:
            return _cv_linear(pixels, _cv_grown_taps(x), _cv_grown_taps(y))
        case Resample.BICUBIC:
            return _rounded(_weighted(pixels, _cv_cubic_taps(x), _cv_cubic_taps(y)))
        case _:
            return _cv_linear(pixels, _cv_linear_taps(x), _cv_linear_taps(y, is_row=True))


def _halved(pixels: Pixels, x: Axis, y: Axis) -> Pixels:
    """OpenCV takes a linear half as an area."""
    left, top = int(x.start), int(y.start)
    part = pixels[top : top + 2 * y.count, left : left + 2 * x.count].astype(np.uint16)
    total = part[::2, ::2] + part[1::2, ::2] + part[::2, 1::2] + part[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def _cv_linear_taps(axis: Axis, *, is_row: bool = False) -> tuple[Indices, NDArray[np.int32]]:
    centres = axis.centres.astype(np.float32)
    below = np.floor(centres)
    share = centres - below
    if not is_row:  # beyond the last row it weighs that row twice, which rounds otherwise
        share = np.where((below < 0) | (below >= axis.size - 1), np.float32(0), share)
    return _two_taps(below, share, axis.size)


def _cv_grown_taps(axis: Axis) -> tuple[Indices, NDArray[np.int32]]:
    """INTER_AREA where a side grows: linear, but only between the areas of two pixels."""
    new = np.arange(axis.count)
    below = np.floor(axis.start + new * axis.scale)
    share = (new + 1 - (below + 1 - axis.start) / axis.scale).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share))
    return _two_taps(below, np.where(below >= axis.size - 1, np.float32(0), share), axis.size)


def _two_taps(below: NDArray[np.floating], share: Floats, size: int) -> tuple[Indices, NDArray[np.int32]]:
    indices = np.stack([_inside(below, size), _inside(below + 1, size)])
    return indices, _whole(np.stack([1 - share, share]))


def _whole(weights: Floats) -> NDArray[np.int32]:
    return np.asarray(np.rint(weights * np.float32(1 << _CV_BITS)), np.int32)


def _cv_linear(
    pixels: Pixels, x: tuple[Indices, NDArray[np.int32]], y: tuple[Indices, NDArray[np.int32]]
) -> Pixels:
    # The upper 16 bits of products of 16 bits, as its vector code computes.
    rows = (
        (of_y[:, None, None] * (_weighted_columns(pixels, at_y, x) >> 4)) >> 16
        for at_y, of_y in zip(*y, strict=True)
    )
    return ((np.asarray(sum(rows), np.int32) + 2) >> 2).astype(np.uint8)


def _cv_cubic_taps(axis: Axis) -> tuple[Indices, Floats]:
    """Keys 1981 with a = -3/4; beyond the edge the last pixel counts again."""
    below = np.floor(axis.centres)
    weights = _cubic((axis.centres - below).astype(np.float32), -0.75)
    return _inside(below + np.arange(-1, 3)[:, None], axis.size), weights


def _coverage(axis: Axis) -> tuple[Indices, NDArray[np.float64]]:
    """For each new pixel the pixels that it covers, and how much of each; those it does not reach have 0."""
    begin = axis.start + np.arange(axis.count) * axis.scale
    end = np.minimum(begin + axis.scale, axis.size)
    first = np.floor(begin + _LEAST)
    stop = np.maximum(np.ceil(end - _LEAST), first + 1)
    edges = first + np.arange(int((stop - first).max()) + 1)[:, None]
    covered = np.diff(np.clip(edges, begin, end), axis=0) * (edges[:-1] < stop)
    return _inside(edges[:-1], axis.size), covered


def _averaged(
    pixels: Pixels, x: tuple[Indices, NDArray[np.float64]], y: tuple[Indices, NDArray[np.float64]]
) -> Floats:
    """The mean of the pixels under each new one, by the areas that it covers of them.

    The sum of whole pixels is exact before it is scaled, as in both libraries: of six pixels one mean in six
    ends in .5. A product of matrices would round as the processor's BLAS does.
    """
    rows = np.zeros((y[0].shape[1], *pixels.shape[1:]), np.float32)
    for at, covered in zip(y[0], y[1].astype(np.float32), strict=True):
        rows += pixels.take(at, 0) * covered[:, None, None]
    total = np.zeros((rows.shape[0], x[0].shape[1], rows.shape[2]), np.float32)
    for at, covered in zip(x[0], x[1].astype(np.float32), strict=True):
        total += rows.take(at, 1) * covered[:, None]
    areas = np.outer(y[1].sum(axis=0), x[1].sum(axis=0)).astype(np.float32)
    return np.asarray(total * (1 / areas)[:, :, None], np.float32)


def _cv_averaged(pixels: Pixels, x: Axis, y: Axis) -> Floats:
    """The same as OpenCV adds it up: along the rows first, with shares of float32; whole pixels as above."""
    if x.scale.is_integer() and y.scale.is_integer():
        return _averaged(pixels, _coverage(x), _coverage(y))
    (columns, of_columns), (rows, of_rows) = _shares(x), _shares(y)
    narrow = np.zeros((pixels.shape[0], x.count, pixels.shape[2]), np.float32)
    for at, share in zip(columns, of_columns, strict=True):
        narrow += pixels.take(at, 1) * share[:, None]
    total = np.zeros((y.count, *narrow.shape[1:]), np.float32)
    for at, share in zip(rows, of_rows, strict=True):
        total += narrow.take(at, 0) * share[:, None, None]
    return total


def _shares(axis: Axis) -> tuple[Indices, Floats]:
    indices, covered = _coverage(axis)
    width = np.minimum(axis.scale, axis.size - axis.start - np.arange(axis.count) * axis.scale)
    return indices, (covered / width).astype(np.float32)


def _inside(indices: NDArray[np.floating], size: int) -> Indices:
    return np.asarray(np.clip(indices, 0, size - 1), np.intp)


def _rounded(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
