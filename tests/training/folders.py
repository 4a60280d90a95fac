"""Labelled folders of pictures that a small network can learn: a colour a class, each picture its own."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"grass": (40, 160, 50), "sea": (30, 60, 170), "wine": (150, 20, 60)}


def picture(name: str, number: int, *, size: tuple[int, int] = (48, 32)) -> bytes:
    """A noisy field of the class's colour, as JPEG; the same number gives the same bytes."""
    rng = np.random.default_rng([sorted(COLOURS).index(name), number])
    pixels = rng.normal(COLOURS[name], 25, (size[1], size[0], 3)) + rng.normal(0, 20, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def fill(folder: Path, *, each: int = 20) -> Path:
    """Make a folder a class, with so many pictures."""
    for name in COLOURS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            (folder / name / f"{number}.jpg").write_bytes(picture(name, number))
    return folder
