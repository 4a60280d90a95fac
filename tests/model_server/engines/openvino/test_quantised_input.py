"""Which numbers a quantised input was made for, and when a picture's bytes are just what it takes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model_server.engines.openvino.quantised import Fit, Quantisation

# MobileNetV2's of TensorFlow Hub: a byte stands for -1 to 1.
FILE = Quantisation(step=1 / 127.5, zero=127, low=0, high=255)


def _numbers(mean: float, std: float) -> NDArray[np.float32]:
    pixels = np.repeat(np.arange(256)[:, None], 3, axis=1)
    return ((pixels - mean) / std).astype(np.float32)[None, None]


@pytest.mark.parametrize(("mean", "std", "same"), [(127.5, 127.5, True), (127, 128, True), (0, 255, False)])
def test_a_normalisation_that_gives_the_bytes_again_is_known(mean: float, std: float, *, same: bool) -> None:
    assert FILE.is_identity(_numbers(mean, std)) is same


def _range(low: float, high: float) -> Quantisation:
    """As a quantiser leaves what it saw: low to high as bytes."""
    step = (high - low) / 255
    return Quantisation(step, zero=-128 - low / step, low=-128, high=127)


SYMMETRIC = Quantisation(step=1 / 127, zero=0, low=-128, high=127)
"""-1.008 to 1: what a symmetric quantiser makes of 0 to 1 as well as of -1 to 1."""


@pytest.mark.parametrize(
    ("file", "least", "most", "fit"),
    [
        (FILE, -1, 1, "right"),
        (FILE, -0.51, 1, "right"),
        (FILE, -0.47, 1, "doubtful"),
        (FILE, -1, 1.49, "right"),
        (FILE, -1, 1.53, "doubtful"),
        (FILE, -2.118, 2.64, "doubtful"),
        (FILE, 0, 1, "wrong"),  # it has seen negative numbers
        (FILE, -0.18, 1, "wrong"),
        (FILE, -0.22, 1, "doubtful"),
        (FILE, 0, 255, "wrong"),
        (FILE, -123.7, 151.1, "wrong"),
        (SYMMETRIC, -1, 1, "right"),
        (SYMMETRIC, 0, 1, "doubtful"),
        (SYMMETRIC, 0, 0.51, "doubtful"),
        (SYMMETRIC, 0, 0.49, "wrong"),
        (_range(0, 1), 0, 1, "right"),
        (_range(0, 0.75), 0, 1, "doubtful"),  # calibrated with dim pictures
        (_range(0, 0.81), 0, 1, "right"),
        (_range(0, 0.5), 0, 1, "doubtful"),
        (_range(0, 0.101), 0, 1, "doubtful"),
        (_range(0, 0.099), 0, 1, "wrong"),
        (_range(-1, 0), -1, 1, "doubtful"),
        (_range(0, 1), -1, 1, "wrong"),
        (_range(-0.09, 1), -1, 1, "wrong"),
        (_range(-0.13, 1), -1, 1, "doubtful"),
        (_range(0, 1), -0.34, 1, "wrong"),
        (_range(0, 1), -0.32, 1, "doubtful"),
        (_range(0, 1), 0, 255, "wrong"),
        (_range(0, 255), 0, 1, "wrong"),
        (_range(0, 255), 0, 255, "right"),
        (_range(-2.118, 2.64), 0, 1, "wrong"),
        (_range(-2.118, 2.64), 0, 255, "wrong"),
        (_range(2, 3), 0, 1, "wrong"),
    ],
)
def test_only_what_no_calibration_explains_is_wrong(
    file: Quantisation, least: float, most: float, fit: Fit
) -> None:
    assert file.fits(least, most) == fit


def test_its_numbers_are_told() -> None:
    assert str(Quantisation(step=0.025, zero=-28, low=-128, high=127)) == "from -2.5 to 3.875"
