"""Masks and keypoints are drawn where they belong, whatever form a mask has."""

import base64
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from broker.messages import Mask, Prediction
from pictures import png, rle
from tests.browser.pages import Visit
from tests.browser.test_detection import BOX, SIZE, answer, photo
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def _mask(form: str) -> dict[str, Any]:
    """The mask of the photo's thing, at half of its size, as an answer has it."""
    inside = np.zeros((SIZE[1] // 2, SIZE[0] // 2), np.bool_)
    x, y, width, height = (side // 2 for side in BOX)
    inside[y : y + height, x : x + width] = True
    begins, ends = rle.runs(np.ascontiguousarray(inside.T), 0, 0, len(inside))
    mask = Mask(inside.shape, rle.of_runs(begins, ends, (inside.shape[1], inside.shape[0])), "rle")
    if form == "png":
        (drawn,) = png.of_masks((Prediction("a", "0", 1, mask=msgspec.structs.replace(mask, form="png")),))
        assert drawn.mask is not None
        return {"size": mask.size, "form": "png", "png": base64.b64encode(drawn.mask.png).decode()}
    return {"size": mask.size, "counts": mask.counts}


def _shown(page: Page, body: str, folder: Path) -> None:
    page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.set_input_files("#files", photo(folder, orientation=1))
    expect(page.locator(".box")).to_have_count(1)


@pytest.mark.parametrize("form", ["rle", "png"])
def test_a_mask_covers_its_thing(visit: Visit, digits: Stack, tmp_path: Path, form: str) -> None:
    page = visit(digits.url)
    _shown(page, answer(BOX, more={"mask": _mask(form), "area": 0.25}), tmp_path)
    alpha = page.locator("canvas.masks").evaluate(
        "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"
        ".filter((_, at) => at % 4 === 3)"
    )
    cover = np.array(alpha).reshape(SIZE[1] // 2, SIZE[0] // 2)
    x, y, width, height = (side // 2 for side in BOX)
    assert (cover[y : y + height, x : x + width] > 0).all()
    assert cover.astype(bool).sum() == width * height
    assert set(np.unique(cover).tolist()) == {0, 115, 255}
    frame, tag = (page.locator(each).bounding_box() for each in (".frame", ".box span"))
    assert frame
    assert tag
    middle = tag["x"] - frame["x"] + tag["width"] / 2
    share = middle / frame["width"]
    assert BOX[0] / SIZE[0] < share < (BOX[0] + BOX[2]) / SIZE[0]
    assert page.locator(".ranking .share").inner_text() == "25.0%"  # of the picture


def test_points_that_are_probable_are_drawn_with_their_lines(
    visit: Visit, digits: Stack, tmp_path: Path
) -> None:
    places = ((340, 100, 0.9), (470, 320, 0.8), (400, 200, 0.2))
    points = [{"name": str(at), "x": x, "y": y, "probability": p} for at, (x, y, p) in enumerate(places)]
    skeleton = {"lines": [[0, 1], [1, 2]], "least": 0.5}
    page = visit(digits.url)
    _shown(page, answer(BOX, more={"keypoints": points}, skeleton=skeleton), tmp_path)
    assert page.locator("svg.points .dot").count() == 2
    line = page.locator("svg.points line")
    expect(line).to_have_count(1)
    frame, drawn = page.locator(".frame img").bounding_box(), line.bounding_box()
    assert frame
    assert drawn
    scale = frame["width"] / SIZE[0]
    assert drawn["x"] - frame["x"] == pytest.approx(340 * scale, abs=4)
    assert drawn["y"] - frame["y"] == pytest.approx(100 * scale, abs=4)
    assert drawn["height"] == pytest.approx(220 * scale, abs=6)
