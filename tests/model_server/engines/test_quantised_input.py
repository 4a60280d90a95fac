"""Which numbers a quantised input was made for, and when a picture's bytes are just what it takes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model_server.engines.quantised import Quantised

# MobileNetV2's of TensorFlow Hub: a byte stands for -1 to 1.
FILE = Quantised(step=1 / 127.5, zero=127, low=0, high=255)


def _numbers(mean: float, std: float) -> NDArray[np.float32]:
    pixels = np.repeat(np.arange(256)[:, None], 3, axis=1)
    return ((pixels - mean) / std).astype(np.float32)[None, None]


@pytest.mark.parametrize(("mean", "std", "same"), [(127.5, 127.5, True), (127, 128, True), (0, 255, False)])
def test_a_normalisation_that_gives_the_bytes_again_is_known(mean: float, std: float, *, same: bool) -> None:
    assert FILE.is_identity(_numbers(mean, std)) is same


@pytest.mark.parametrize(
    ("least", "most", "fits"),
    [(-1, 1, True), (-0.9, 1.2, True), (0, 1, False), (0, 255, False), (-2.118, 2.64, False), (-1, 3, False)],
)
def test_it_covers_what_it_was_calibrated_for(least: float, most: float, *, fits: bool) -> None:
    assert FILE.covers(least, most) is fits


def test_its_numbers_are_told() -> None:
    assert str(Quantised(step=0.025, zero=-28, low=-128, high=127)) == "from -2.5 to 3.875"
