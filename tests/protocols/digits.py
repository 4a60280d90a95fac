"""What the clients are asked about: drawn digits, in each form in which a client sends pictures.

Owns the pictures and the service's answers to `POST /predict`, which every client's are compared with.
"""

import functools
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.messages import Fit, InputSpec
from pictures.fit import prepare
from tests.support import http
from tests.support.pictures import drawn_digit
from tests.support.stack import Stack

MODEL: Final = "digits"

DIGITS: Final = (7, 0, 3, 8, 5)

LABELS: Final = 10

TOLERANCE: Final = 1e-6

_SPEC: Final = InputSpec(28, 28, 1, Fit.INK)
"""The model's: its model.toml."""


@functools.cache
def encoded() -> tuple[bytes, ...]:
    """The pictures as files, which the service fits to the model."""
    return tuple(drawn_digit(value) for value in DIGITS)


def fitted() -> NDArray[np.uint8]:
    """The same, as a client that fits them itself sends them: uint8 [n, 28, 28, 1]."""
    return np.stack([prepare(each, _SPEC, max_pixels=1_000_000).pixels for each in encoded()])


def write(folder: Path) -> list[Path]:
    """Write the pictures into a folder; return the files, in their order."""
    files = [folder / f"{number}-{value}.jpg" for number, value in enumerate(DIGITS)]
    for file, picture in zip(files, encoded(), strict=True):
        file.write_bytes(picture)
    return files


def predicted(stack: Stack) -> NDArray[np.float64]:
    """What /predict says of the pictures: a row of probabilities each, in the labels' order."""
    rows = []
    for picture in encoded():
        answer = http.post(
            f"{stack.url}/predict?top={LABELS}", files={"image": ("x.jpg", picture)}, timeout=60
        ).json()
        by_label = {int(each["label"]): each["probability"] for each in answer["predictions"]}
        rows.append([by_label[label] for label in range(LABELS)])
    return np.array(rows)
