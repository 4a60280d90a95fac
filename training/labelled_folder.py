"""Labelled folders of pictures: a folder each class, its name the label. A folder on disk, or a .zip of one.

Owns finding the files and decoding them the way serving does. What is no picture, or a broken one, is named
with its reason and left out. Pure of Keras.
"""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ClientError
from broker.messages import InputSpec
from pictures import fit

MAX_PIXELS: Final = 50_000_000
"""As MAX_PIXELS of the service has it by default: what it refuses is no use in training."""

Place = Path | zipfile.Path

UNREADABLE: Final = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError)
"""What reading a file may raise; all but the first in a .zip: damaged, encrypted, packed in another way."""


class LabelledFolderError(ValueError):
    """The folder can't be learnt from; the message says why."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of a class, by the class's index."""

    place: Place
    label: int

    @property
    def name(self) -> str:
        """Its path, as a message shows it."""
        return str(self.place)


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that is left out, and why."""

    file: File
    reason: str


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """`pixels` is uint8 (N, height, width, channels); `labels` is int64 (N,), the class of each."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class FolderContents:
    """What came of reading files: the pictures, the file of each, and what had to be left out."""

    pictures: LabelledPictures
    files: list[File]
    skipped: list[SkippedFile]


def opened(path: Path) -> Place:
    """Return the folder, or what is in the .zip, at `path`. Raises FolderError."""
    if path.is_dir():
        return path
    if not path.is_file():
        raise LabelledFolderError(f"{path} is not a folder")
    try:
        return zipfile.Path(path)
    except (OSError, zipfile.BadZipFile):
        raise LabelledFolderError(f"{path} is neither a folder nor a .zip") from None


def files_of(folder: Place) -> tuple[tuple[str, ...], list[File]]:
    """Return the classes, in order of their names, and every file below each class's folder.

    What begins with a dot is passed over, and what macOS adds to a .zip; where all lies in one folder, that
    folder counts. Raises LabelledFolderError unless there are two classes with valid names.
    """
    found = _places_in(folder)
    while len(found) == 1 and found[0].is_dir() and any(place.is_dir() for place in _places_in(found[0])):
        found = _places_in(found[0])
    places = [place for place in found if place.is_dir()]
    if len(places) < 2:
        raise LabelledFolderError(
            f"{folder} holds {len(places)} folders; it takes one for each class, two at least, named by the "
            "class and with its pictures in it"
        )
    for place in places:
        if not _is_text(place.name):
            raise LabelledFolderError(
                f"{place.name!r} is a folder whose name is not UTF-8, so no label: rename it"
            )
    files = [File(place, label) for label, each in enumerate(places) for place in _files_below(each)]
    return tuple(place.name for place in places), files


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files_below(folder: Place) -> list[Place]:
    found: list[Place] = []
    for place in _places_in(folder):
        if place.is_dir():
            found += _files_below(place)
        else:
            found.append(place)
    return found


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an array in a new file, all of its room taken: a full disk would end the process later on."""
    pixels: NDArray[np.uint8] = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise LabelledFolderError(
            f"{path.parent} has no room for {shape[0]} pictures, {pixels.nbytes / 1e6:.0f} MB ({error}); "
            "TMPDIR chooses another place"
        ) from error
    return pixels


def _places_in(folder: Place) -> list[Place]:
    found: list[Place] = [place for place in folder.iterdir() if not place.name.startswith((".", "__MACOSX"))]
    return sorted(found, key=lambda place: place.name)


def _decoded(file: File, spec: InputSpec) -> NDArray[np.uint8]:
    """Return the picture as the model gets it from the web tier. Raises ClientError or OSError."""
    return fit.prepare(file.place.read_bytes(), spec, max_pixels=MAX_PIXELS).pixels


def read(files: Sequence[File], spec: InputSpec, keep_in: Path | None = None) -> FolderContents:
    """Decode all of `files`, into memory, or into a new file `keep_in` that is mapped into it.

    Pictures without number then cost disk, not memory: 150 KB each of 224 x 224. Raises FolderError if there
    is no room for them.
    """
    shape = (len(files), *spec.shape)
    pixels = np.empty(shape, np.uint8) if keep_in is None or not files else _mapped(keep_in, shape)
    used: list[File] = []
    skipped: list[SkippedFile] = []
    for file in files:
        try:
            pixels[len(used)] = _decoded(file, spec)
            used.append(file)
        except ClientError as error:
            skipped.append(SkippedFile(file, error.message))
        except UNREADABLE as error:
            skipped.append(SkippedFile(file, str(error)))
    labels = np.array([file.label for file in used], np.int64)
    return FolderContents(LabelledPictures(pixels[: len(used)], labels), used, skipped)
