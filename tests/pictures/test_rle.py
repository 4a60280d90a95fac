"""Masks as COCO's run lengths: pycocotools' own strings, every size and shape, and back."""

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.messages import Mask
from pictures import rle


def _encoded(mask: NDArray[np.bool_]) -> str:
    height, width = mask.shape
    begins, ends = rle.runs(np.ascontiguousarray(mask.T), 0, 0, height)
    return rle.of_runs(begins, ends, (width, height))


def _square() -> NDArray[np.bool_]:
    mask = np.zeros((4, 6), np.bool_)
    mask[1:3, 2:5] = True
    return mask


def _disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:60, :80]
    return np.asarray((x - 40) ** 2 + (y - 25) ** 2 < 400)


def _stripes() -> NDArray[np.bool_]:
    y, x = np.mgrid[:12, :5]
    return np.asarray((x * 7 + y * 13) % 11 < 4)


def _around_a_corner() -> NDArray[np.bool_]:
    """A run that goes on at the top of the next column."""
    mask = np.zeros((3, 4), np.bool_)
    mask[2, 1] = mask[0, 2] = True
    return mask


def _dot() -> NDArray[np.bool_]:
    mask = np.zeros((2048, 2048), np.bool_)
    mask[5, 3] = True
    return mask


OF_PYCOCOTOOLS = [
    (_square(), "9220003"),
    (
        _disc(),
        "oW1=]14L4M2M4M2N2O0O2N2O0O2O0O2O000000000000000000000001N101N101N2N101N2N3L3N3L4LoT1",
    ),
    (_stripes(), "0240OOO120NO1110M02040L0O"),
    (_around_a_corner(), "525"),
    (_dot(), "UP61joio3"),
    (np.ones((3, 5), np.bool_), "0?"),
    (np.zeros((3, 5), np.bool_), "?"),
]
"""What pycocotools 2.0.11 writes."""


@pytest.mark.parametrize(("mask", "counts"), OF_PYCOCOTOOLS)
def test_the_string_is_pycocotools_own(mask: NDArray[np.bool_], counts: str) -> None:
    assert _encoded(mask) == counts
    height, width = mask.shape
    assert np.array_equal(rle.decode(Mask((height, width), counts)), mask)


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_any_mask_comes_back_and_a_part_is_as_the_whole(density: float) -> None:
    chance = np.random.default_rng(int(100 * density))
    for _ in range(60):
        height, width = chance.integers(1, 50, 2).tolist()
        left, top = int(chance.integers(0, width)), int(chance.integers(0, height))
        mask = np.zeros((height, width), np.bool_)
        part = chance.random((height - top, width - left)) < density
        mask[top:, left:] = part
        counts = rle.of_runs(*rle.runs(np.ascontiguousarray(part.T), left, top, height), (width, height))
        assert counts == _encoded(mask)
        assert np.array_equal(rle.decode(Mask((height, width), counts)), mask)


def test_the_middle_of_a_mask_is_inside_of_it() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[:3] = True
    mask[10:50, 20:24] = True
    x, y = rle.inside(mask)
    assert 20 < x < 24
    assert 28 < y < 32
    assert rle.inside(np.ones((3, 5), np.bool_)) == (2.5, 1.5)


def test_a_large_photo_s_mask_has_its_shape() -> None:
    assert rle.size_of((2048, 10)) == (2048, 10)
    assert rle.size_of((4000, 3000)) == (2048, 1536)
    assert rle.size_of((3, 50_000)) == (1, 2048)


@pytest.mark.parametrize("counts", ["", "5", "9O", "0" * 3 + "O", "oooooooo1"])
def test_what_does_not_fill_the_mask_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="run lengths of a mask"):
        rle.decode(Mask((3, 5), counts))


@pytest.mark.parametrize("at", [(0, 0), (17, 9), (20, 40)])
def test_the_mask_of_a_part_is_placed_on_the_photo(at: tuple[int, int]) -> None:
    left, top = at
    whole = np.zeros((100, 110), np.bool_)
    whole[top : top + 60, left : left + 80] = _disc()
    mask = rle.placed(Mask((60, 80), _encoded(_disc())), (left, top, 80, 60), (110, 100))
    assert mask.size == (100, 110)
    assert np.array_equal(rle.decode(mask), whole)
    assert rle.placed(Mask((60, 80), _encoded(_disc()), "png"), (left, top, 80, 60), (110, 100)).form == "png"


def test_on_a_large_photo_it_has_the_photo_s_fewer_pixels() -> None:
    part = Mask((60, 80), _encoded(np.ones((60, 80), np.bool_)))
    mask = rle.placed(part, (4000, 100, 80, 60), (4096, 1000))
    assert mask.size == (500, 2048)
    assert np.array_equal(np.argwhere(rle.decode(mask)).min(axis=0), (50, 2000))
    assert rle.decode(mask).sum() == 40 * 30


def test_a_part_of_less_than_a_pixel_keeps_one() -> None:
    mask = rle.placed(Mask((1, 1), _encoded(np.ones((1, 1), np.bool_))), (8191, 4095, 1, 1), (8192, 4096))
    assert np.argwhere(rle.decode(mask)).tolist() == [[1023, 2047]]


def test_of_a_part_s_mask_the_nearest_pixel_counts() -> None:
    stripes = np.zeros((4, 8), np.bool_)
    stripes[:, 1::2] = True
    # Half as many pixels: of each pair the second is the nearer to the middle.
    mask = rle.placed(Mask((4, 8), _encoded(stripes)), (0, 0, 8, 4), (4096, 8))
    assert mask.size == (4, 2048)
    assert rle.decode(mask)[:2, :4].all()
