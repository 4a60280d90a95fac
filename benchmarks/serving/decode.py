"""What every peer does with a picture and with the network's answer: the same work for all.

Owns the full decode (Pillow, bicubic to the network's size) and the answer's form. Needs no other package.
"""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.serving.engine import SIDE

_TOP: Final = 5


def pixels(picture: bytes) -> NDArray[np.uint8]:
    """Decode a picture whole, and resize it."""
    return fitted(Image.open(io.BytesIO(picture)))


def fitted(image: Image.Image) -> NDArray[np.uint8]:
    """What Pillow has opened, decoded and resized."""
    resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def answer(probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """One picture's answer: the most probable classes, best first."""
    best = np.argsort(-probabilities, kind="stable")[:_TOP]
    return {
        "predictions": [{"label": int(index), "probability": float(probabilities[index])} for index in best]
    }
