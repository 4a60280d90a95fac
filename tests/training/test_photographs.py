"""Large photographs of small pictures: what a user would upload, and the same for the same seed."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pictures.fit import prepare
from training.photographs import INPUT, SIDE, photograph, photographed


def _pictures(count: int) -> NDArray[np.uint8]:
    """Discs, each of a place and a colour of its own, on another colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    pictures = []
    for _ in range(count):
        colours = rng.integers(0, 256, (2, 3))
        middle = rng.uniform(12, 20, 2)
        inside = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < rng.uniform(30, 90)
        pictures.append(np.where(inside[..., None], colours[0], colours[1]))
    return np.stack(pictures).astype(np.uint8)


@pytest.mark.slow
def test_a_photograph_is_a_large_jpeg_that_looks_like_its_picture() -> None:
    rng = np.random.default_rng(1)
    likeness, sides = [], []
    for picture in _pictures(40):
        upload = photograph(picture, rng)
        with Image.open(io.BytesIO(upload)) as image:
            assert image.format == "JPEG"
            sides.append(image.size[0])
        served = prepare(upload, INPUT, max_pixels=10**6).pixels.astype(np.float64)
        likeness.append(np.corrcoef(served.ravel(), picture.ravel().astype(np.float64))[0, 1])
    assert min(sides) >= 100
    assert max(sides) <= 400
    assert len(set(sides)) > 20
    assert np.median(likeness) > 0.7
    assert max(likeness) < 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_however_many_share_the_work() -> None:
    pictures = _pictures(600)  # more than a lot
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(3) as three:
        alone, shared = photographed(pictures, 5, one), photographed(pictures, 5, three)
        other = photographed(pictures[:10], 6, one)
    assert alone.shape == pictures.shape
    assert (alone == shared).all()
    assert (alone[:10] != other).any()
    assert (alone != pictures).any()
