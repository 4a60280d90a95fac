"""Pixels that a network made, as a PNG file.

Owns the encoding. Knows no HTTP and no model.
"""

import io
from typing import Final

import numpy as np
from PIL import Image

from broker.messages import Pixels

_COMPRESSION: Final = 1
"""zlib's level: 0.2 s for a photo of 2048 x 1536 where Pillow's own takes 1; 16 % more bytes."""


def of_pixels(pixels: Pixels) -> bytes:
    """A PNG in grey or RGB. Raises ValueError if the bytes do not fill the shape."""
    numbers = np.frombuffer(pixels.data, np.uint8).reshape(pixels.shape)
    return encode(Image.fromarray(numbers[..., 0] if pixels.shape[2] == 1 else numbers))


def encode(image: Image.Image) -> bytes:
    """A picture as PNG, in little time."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=_COMPRESSION)
    return out.getvalue()
