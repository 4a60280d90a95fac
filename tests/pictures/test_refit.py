"""The last resort for pictures of an earlier input: scaled, as Pillow would scale them."""

import numpy as np
import pytest
from PIL import Image

from broker.messages import Fit, InputSpec, Library
from pictures import fixed_point
from pictures.refit import keeps_places, refit


@pytest.mark.parametrize(("old", "new"), [((31, 47), (17, 20)), ((17, 20), (31, 47)), ((8, 8), (8, 8))])
def test_it_scales_as_pillow_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    picture = np.random.default_rng(7).integers(0, 256, (*old, 3), np.uint8)
    found = refit(picture, InputSpec(new[1], new[0], 3, Fit.CROP))
    right = np.asarray(Image.fromarray(picture).resize((new[1], new[0]), Image.Resampling.BILINEAR))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.abs(found.astype(int) - right).max() <= 1


def test_colours_become_grey_and_grey_becomes_colours() -> None:
    picture = np.random.default_rng(7).integers(0, 256, (5, 6, 3), np.uint8)
    grey = refit(picture, InputSpec(6, 5, 1, Fit.STRETCH))
    assert np.abs(grey[:, :, 0].astype(int) - np.asarray(Image.fromarray(picture).convert("L"))).max() <= 1
    assert (refit(grey, InputSpec(6, 5, 3, Fit.STRETCH)) == grey).all()


def test_fractions_are_rounded_or_added_and_keep_their_places() -> None:
    old = InputSpec(6, 5, 3, Fit.STRETCH, library=Library.TENSORFLOW)
    values = np.random.default_rng(7).uniform(0, 255, old.network_shape).astype(np.float32)
    picture = fixed_point.split(values)
    whole = refit(picture, InputSpec(6, 5, 3, Fit.STRETCH))
    assert whole.shape == (5, 6, 3)
    assert np.abs(whole - values).max() <= 0.51
    assert np.array_equal(refit(picture, old), picture)
    grey = refit(picture, InputSpec(3, 5, 1, Fit.STRETCH, library=Library.TENSORFLOW))
    assert grey.shape == (5, 3, 2)
    assert np.array_equal(fixed_point.joined(refit(whole, old)), whole)
    assert keeps_places(old.tag.removesuffix("-fractions"), picture.shape, old)
    assert not keeps_places(old.tag, picture.shape, InputSpec(6, 5, 3, Fit.CROP, library=Library.TENSORFLOW))
