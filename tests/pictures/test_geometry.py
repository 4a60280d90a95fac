"""Boxes there and back: what the web tier fits into an input is found again on the photo."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from broker.messages import Fit, InputSpec
from pictures import fit
from pictures.geometry import place

BOX = (90, 70, 150, 110)
"""x1, y1, x2, y2 on every photo, in a part that no crop cuts away."""


def _photo(size: tuple[int, int]) -> bytes:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), fill="black")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("size", [(240, 180), (200, 200), (181, 241), (1000, 170)])
@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(128, 96, 3, Fit.STRETCH),
        InputSpec(96, 96, 3, Fit.PAD),
        InputSpec(160, 96, 3, Fit.PAD),
        InputSpec(320, 320, 3, Fit.CROP),
        InputSpec(160, 200, 3, Fit.CROP),
        InputSpec(224, 224, 3, Fit.CROP, resize=255),
    ],
    ids=lambda spec: f"{spec.fit}-{spec.width}x{spec.height}-{spec.resize}",
)
def test_a_box_is_found_again_where_it_was(spec: InputSpec, size: tuple[int, int]) -> None:
    if size[0] == 1000 and spec.fit is Fit.CROP:
        size = (260, 170)
    prepared = fit.prepare(_photo(size), spec, max_pixels=10**6)
    dark = prepared.pixels.mean(axis=2) < 128
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    found = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float64)
    placement = place(spec, prepared.original_size)
    # An edge of the input's pixels is known to half a pixel of it.
    allowed = max(placement.scale_x, placement.scale_y, 1) * 0.75
    np.testing.assert_allclose(placement.on_photo(found)[0], BOX, atol=allowed)
