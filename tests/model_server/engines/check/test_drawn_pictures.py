"""The pictures of the check: always the same, of the model's shape, and not without content."""

import numpy as np
import pytest

from broker.messages import Fit, InputSpec
from model_server.engines.check import drawn_pictures

PHOTO = InputSpec(width=96, height=64, channels=3, fit=Fit.STRETCH)
DRAWING = InputSpec(width=28, height=28, channels=1, fit=Fit.INK)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [PHOTO, DRAWING, InputSpec(5, 3, 1, Fit.PAD)])
def test_they_have_the_model_s_shape_and_differ(spec: InputSpec) -> None:
    drawn = drawn_pictures.draw(spec)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (drawn_pictures.COUNT, *spec.shape)
    assert len({each.tobytes() for each in drawn}) == drawn_pictures.COUNT
    assert drawn.flags.c_contiguous
    assert (drawn == drawn_pictures.draw(spec)).all()


@pytest.mark.slow
def test_photos_have_edges_and_flat_parts_and_colours_that_go_together() -> None:
    drawn = drawn_pictures.draw(PHOTO).astype(np.float64)
    steps = np.abs(np.diff(drawn, axis=2))
    assert np.median(steps) < 10  # most neighbours are alike
    assert np.quantile(steps, 0.98) > 60  # some are an edge
    assert np.corrcoef(drawn[..., 0].ravel(), drawn[..., 2].ravel())[0, 1] > 0.5
    # The order of the channels matters, or a network that takes them wrong would pass.
    assert np.abs(drawn - drawn[..., ::-1]).mean() > 10


def test_drawings_are_light_strokes_on_black() -> None:
    drawn = drawn_pictures.draw(DRAWING)
    assert (drawn.max(axis=(1, 2, 3)) == 255).all()
    assert ((drawn > 128).mean(axis=(1, 2, 3)) > 0.05).all()
    assert ((drawn > 128).mean(axis=(1, 2, 3)) < 0.3).all()
    assert drawn[:, :3].max() == drawn[:, :, :3].max() == 0
