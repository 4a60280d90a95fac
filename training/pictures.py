"""The pictures that the digits' network is trained on and judged with.

Owns reading MNIST, bending and redrawing its digits as people draw, photograph and scan them, and
passing every picture through the fitting that serving uses. Pure of Keras: numpy and Pillow only,
and the same seed always gives the same pictures.
"""

import io
import zipfile
import zlib
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from broker.messages import Fit, InputSpec
from pictures.fit import fit

SIDE: Final = 28
CLASSES: Final = 10
INPUT: Final = InputSpec(width=SIDE, height=SIDE, channels=1, fit=Fit.INK)

# Strokes are thinned and thickened at this side: 3 times MNIST's, where its strokes are 5 to 9 pixels wide.
_DRAWN_SIDE: Final = 84
# The bend moves the nodes of a grid of this many cells a side.
_CELLS: Final = 3
# Pictures are rendered in lots of this many, each with a seed of its own, so that the result does not
# depend on how many processes share the work.
_LOT: Final = 500


@dataclass(frozen=True, slots=True)
class Digits:
    """Handwritten digits: `pictures` is uint8 (N, 28, 28), light on black; `labels` is uint8 (N,), 0 to 9."""

    pictures: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def read_npz(path: Path) -> tuple[Digits, Digits]:
    """Return MNIST's training and test digits from an .npz with x_train, y_train, x_test and y_test.

    Raises ValueError, with a sentence that says what is wrong with the file.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file, or there is no such file.")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            train, test = ((arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test"))
    except KeyError as error:
        raise ValueError(f"{path} lacks an array: {error.args[0]}.") from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is broken ({error}).") from None
    return checked(*train, origin=str(path)), checked(*test, origin=str(path))


def checked(pictures: NDArray[np.generic], labels: NDArray[np.generic], *, origin: str) -> Digits:
    """Return the arrays as Digits, or raise ValueError, which names `origin` and what differs."""
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (SIDE, SIDE) or not len(pictures):
        raise ValueError(
            f"{origin}: pictures are {pictures.dtype} {pictures.shape}, not uint8 (N, {SIDE}, {SIDE})."
        )
    if labels.shape != pictures.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{origin}: labels are {labels.dtype} {labels.shape}, not one integer a picture.")
    numbers = labels.astype(np.int64)
    if numbers.min() < 0 or numbers.max() >= CLASSES:
        raise ValueError(f"{origin}: labels run from {numbers.min()} to {numbers.max()}, not within 0 to 9.")
    return Digits(pictures.astype(np.uint8), numbers.astype(np.uint8))


def as_served(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pass uint8 (N, 28, 28) through the fitting of serving; the result has the same shape and dtype."""
    return np.stack([_served(Image.fromarray(picture)) for picture in pictures])


def photographed(pictures: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Draw each of uint8 (N, 28, 28), unbent, on paper of its own (see `on_paper`) and fit it; same shape."""
    rng = np.random.default_rng(seed)
    return np.stack([_served(on_paper(Image.fromarray(picture), rng)) for picture in pictures])


def redrawn(pictures: NDArray[np.uint8], seed: int, executor: Executor) -> NDArray[np.uint8]:
    """Return a bent and redrawn copy of each of uint8 (N, 28, 28), fitted as in serving; same shape.

    Half of them get other strokes and are drawn on paper, the others stay MNIST's light on black.
    The work is spread over the executor's workers.
    """
    lots = [pictures[start : start + _LOT] for start in range(0, len(pictures), _LOT)]
    seeds = [[seed, number] for number in range(len(lots))]
    return np.concatenate(list(executor.map(_redrawn_lot, lots, seeds)))


def _redrawn_lot(pictures: NDArray[np.uint8], seed: list[int]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    copies = []
    for picture in pictures:
        drawn = bent(picture, rng)
        if rng.random() < 0.5:
            copies.append(_served(on_paper(restroked(drawn, rng), rng)))
        else:
            copies.append(_served(drawn.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(copies)


def _served(image: Image.Image) -> NDArray[np.uint8]:
    return fit(image, INPUT)[..., 0]


def bent(picture: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Return uint8 (28, 28) as an image of 84 x 84: a little turned, sheared, scaled and warped."""
    angle, shear = np.deg2rad(rng.normal(0, 6)), rng.normal(0, 0.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(np.exp(rng.normal(0, 0.08, 2)) * 1.1)
    grid = np.linspace(-0.5, 0.5, _CELLS + 1)
    nodes = np.stack(np.meshgrid(grid, grid, indexing="xy"), axis=-1) @ affine.T
    nodes = (nodes + rng.normal(0, 0.018, nodes.shape) + 0.5) * _DRAWN_SIDE
    cell = _DRAWN_SIDE // _CELLS
    mesh = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            box = (column * cell, row * cell, (column + 1) * cell, (row + 1) * cell)
            corners = nodes[[row, row + 1, row + 1, row], [column, column, column + 1, column + 1]]
            mesh.append((box, tuple(corners.ravel().tolist())))
    large = Image.fromarray(picture).resize((_DRAWN_SIDE, _DRAWN_SIDE), Image.Resampling.BICUBIC)
    return large.transform(large.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def restroked(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the drawing with crisp strokes of another width, from a thin pen's to a marker's.

    Strokes never break, and grow by 2 pixels of 84 a side at most, lest they fill the loops.
    """
    strokes = np.asarray(drawn) > rng.integers(90, 150)
    edges = int(np.diff(strokes, axis=0).sum() + np.diff(strokes, axis=1).sum())
    width = 2.5 * int(strokes.sum()) / max(edges, 1)  # twice the area by the outline, 4/pi of it diagonal
    growth = int(min((rng.uniform(1.5, 13) - width) / 2, 2.5))
    for _ in range(-growth):
        strokes = thinned(strokes)
    image = Image.fromarray(strokes.astype(np.uint8) * np.uint8(255))
    if growth > 0:
        image = image.filter(ImageFilter.MaxFilter(2 * growth + 1))
    return image.filter(ImageFilter.GaussianBlur(1.2))


def thinned(strokes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take one pixel off each side of the strokes without breaking them (Zhang and Suen, 1984).

    `strokes` is bool (height, width); the result too.
    """
    for first in (True, False):
        around = np.pad(strokes, 1)
        ring = [
            around[1 + y : around.shape[0] - 1 + y, 1 + x : around.shape[1] - 1 + x]
            for y, x in ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
        ]
        north, east, south, west = ring[0], ring[2], ring[4], ring[6]
        neighbours = np.sum(ring, axis=0, dtype=np.uint8)
        turns = [after & ~before for before, after in zip(ring, ring[1:] + ring[:1], strict=True)]
        rises = np.sum(turns, axis=0, dtype=np.uint8)
        a, b = (east & south, north | west) if first else (north & west, east | south)
        strokes = strokes & ~((neighbours >= 2) & (neighbours <= 6) & (rises == 1) & ~(a & b))
    return strokes


def on_paper(drawn: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw light-on-black `drawn` (L) as dark ink on light paper, and return the scan or photograph of it.

    Size, margins (down to a digit that touches the border), the greys of ink and paper, lighting,
    blur, noise and the losses of JPEG are drawn from `rng`.
    """
    side = int(np.exp(rng.uniform(np.log(26), np.log(260))))
    ink = drawn.resize((side, side), Image.Resampling.BICUBIC)
    left, top, right, bottom = (rng.uniform(-0.12, 0.8, 4) * side).astype(int)
    canvas = ink.crop((-left, -top, side + right, side + bottom))
    cover = np.asarray(canvas, dtype=np.float32) / 255
    paper, darkness = rng.uniform(150, 235), rng.uniform(0.4, 1)
    height, width = cover.shape
    slopes = rng.uniform(-0.1, 0.1, 2)
    light = 1 + slopes[0] * np.linspace(-1, 1, height)[:, None] + slopes[1] * np.linspace(-1, 1, width)
    page = paper * light * (1 - darkness * cover) + rng.normal(0, rng.uniform(0, 4), cover.shape)
    image = Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(side / 100))
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(40, 96)))
        image = Image.open(file)
        image.load()
    return image
