"""A folder of the user's images as arrays, prepared as in serving, with labels where it has them.

Owns reading, labelling and dividing. Only offline commands use it, since it decodes images: a serving model
process never does.
"""

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError
from model_server.catalogue.model_spec import ModelSpec
from pictures import fit

LEAST: Final = 20
"""The fewest pictures for a meaningful calibration and verdict."""

_SEED: Final = 7


class PictureFolderError(ValueError):
    """The folder can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class FolderPictures:
    """Images: `pixels` is uint8 (N, height, width, channels), `labels` int64 (N,), their classes, or None."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    left_out: int = 0
    """Files of the folder that were looked at, and could not be read as pictures."""

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: slice) -> "FolderPictures":
        """The images of these rows."""
        return FolderPictures(self.pixels[rows], None if self.labels is None else self.labels[rows])


def read(folder: Path, spec: ModelSpec, *, max_pixels: int, at_most: int) -> FolderPictures:
    """Decode and fit up to `at_most` images below `folder`, chosen at random with a fixed seed.

    Linked folders are followed, unless they lead back to a folder above them.

    They have labels if every folder directly below is named after a class (its label or its id) and no file
    lies beside them. Files that are not images are left out. Raises PictureFolderError.
    """
    if not folder.is_dir():
        raise PictureFolderError(f"{folder} is not a folder")
    classes = _classes(folder, spec)
    paths = sorted(_files(folder, ()))
    random.Random(_SEED).shuffle(paths)
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    left_out = 0
    for path in paths:
        if len(pixels) == at_most:
            break
        try:
            pixels.append(fit.prepare(path.read_bytes(), spec.input, max_pixels=max_pixels).pixels)
        except (ClientError, OSError):
            left_out += 1
            continue
        labels.append(classes.get(path.relative_to(folder).parts[0], -1))
    if len(pixels) < LEAST:
        others = f" ({left_out} files could not be read as pictures)" if left_out else ""
        raise PictureFolderError(
            f"{folder} has {len(pixels)} pictures in a supported format{others}; at least {LEAST} are needed"
        )
    return FolderPictures(np.stack(pixels), np.array(labels, np.int64) if classes else None, left_out)


def divide(pictures: FolderPictures, calibrate: int) -> tuple[FolderPictures, FolderPictures]:
    """Split into images to calibrate with, `calibrate` or at most half of them, and the held-out rest."""
    middle = min(calibrate, len(pictures) // 2)
    return pictures.part(slice(None, middle)), pictures.part(slice(middle, None))


def _files(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    """Every file below the folder, through links as well, but in no circle."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path, (*above, real))
        elif path.is_file():
            yield path


def _classes(folder: Path, spec: ModelSpec) -> dict[str, int]:
    """Name of each folder directly below -> its class's index; empty if the images have no labels."""
    names: dict[str, int] = {}
    for index, label in enumerate(spec.labels):
        names.setdefault(_plain(label.label), index)  # ImageNet has two "crane"
    names |= {_plain(label.class_id): index for index, label in enumerate(spec.labels)}
    below = list(folder.iterdir())
    if not below or not all(path.is_dir() and _plain(path.name) in names for path in below):
        return {}
    return {path.name: names[_plain(path.name)] for path in below}


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")
