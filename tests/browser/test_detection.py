"""Boxes are drawn where they belong: over the thing in the photo, upright, at every width.

The answer is made here, so that these tests need no detection model; the photo has one thing in it, whose
colour is found again in the screenshot.
"""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.pages import Visit
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]

SIZE = (600, 400)
BOX = (330, 90, 150, 240)
PINK = (255, 0, 255)
ROTATED = 6
"""EXIF's orientation of a phone that was held upright: to be turned by 90 degrees clockwise."""


def photo(folder: Path, *, orientation: int) -> Path:
    """A grey photo with a pink thing in it, stored as a camera of that orientation does."""
    image = Image.new("RGB", SIZE, (120, 130, 120))
    x, y, width, height = BOX
    image.paste(PINK, (x, y, x + width, y + height))
    exif = Image.Exif()
    exif[0x0112] = orientation
    if orientation == ROTATED:
        image = image.transpose(Image.Transpose.ROTATE_90)
    path = folder / "street.jpg"
    image.save(path, quality=95, exif=exif)
    return path


def answer(*boxes: tuple[int, int, int, int], more: dict[str, object] | None = None, **others: object) -> str:
    """What a detection model says of it; with `more` of each thing, and with `others` of the whole."""
    labels = ("great_white_shark", "dog")
    found = [
        {
            "label": label,
            "class_id": str(number),
            "probability": 0.9 - number / 10,
            "box": box,
            **(more or {}),
        }
        for number, (label, box) in enumerate(zip(labels, boxes, strict=False))
    ]
    about = {
        "success": True,
        "model": "yolo",
        "id": "1",
        "model_version": "v",
        "engine": "e",
        "precision": "p",
    }
    timings = {"waiting": 1.0, "batch": 1.0, "model": 20.0}
    return json.dumps({**about, **others, "predictions": found, "batch_size": 1, "timings_ms": timings})


def pink_place(page: Page) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is pink on the screen."""
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - PINK).sum(axis=2) < 60)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.mark.parametrize("orientation", [1, ROTATED])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_box_is_over_the_thing(
    visit: Visit, digits: Stack, tmp_path: Path, width: int, orientation: int
) -> None:
    page = visit(digits.url, width=width, height=1400)
    page.route("**/predict?*", lambda route: route.fulfill(body=answer(BOX), content_type="application/json"))
    page.set_input_files("#files", photo(tmp_path, orientation=orientation))
    box = page.locator(".box")
    expect(box).to_have_count(1)
    box.scroll_into_view_if_needed()
    said = box.evaluate("box => (({left, top, right, bottom}) => [left, top, right, bottom])"
                        "(box.getBoundingClientRect())")  # fmt: skip
    page.locator(".boxes").evaluate("boxes => boxes.style.visibility = 'hidden'")
    assert said == pytest.approx(pink_place(page), abs=2)
    assert page.locator("figcaption").inner_text().split()[:3:2] == ["600", "400"]


def test_boxes_are_numbered_like_their_labels_and_have_their_colours(
    visit: Visit, digits: Stack, tmp_path: Path
) -> None:
    page = visit(digits.url)
    body = answer((10, 0, 100, 100), BOX)
    page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.set_input_files("#files", photo(tmp_path, orientation=1))
    expect(page.locator(".box")).to_have_count(2)
    assert page.locator(".box span").all_inner_texts() == ["1 great white shark", "2 dog"]
    assert page.locator(".ranking .label").all_inner_texts() == ["great white shark", "dog"]
    colours = [
        page.locator(each).evaluate_all("all => all.map(one => one.style.getPropertyValue('--colour'))")
        for each in (".box", ".ranking li")
    ]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2
    # The first touches the upper edge: its label would be cut off above it.
    frame, tag = (page.locator(each).first.bounding_box() for each in (".frame", ".box span"))
    assert frame
    assert tag
    assert tag["y"] >= frame["y"]
    # The second is on the right: its label grows to the left.
    assert page.locator(".box span").last.evaluate(
        "tag => tag.getBoundingClientRect().right - tag.parentElement.getBoundingClientRect().right"
    ) == pytest.approx(0, abs=1)
    page.get_by_text("Repeat this request").click()
    assert "-H 'Accept: image/png' -o annotated.png" in page.locator(".piece", has_text="boxes").inner_text()


def test_a_photo_with_nothing_in_it_says_so(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    page = visit(digits.url)
    page.route("**/predict?*", lambda route: route.fulfill(body=answer(), content_type="application/json"))
    page.set_input_files("#files", photo(tmp_path, orientation=1))
    expect(page.get_by_text("Nothing was found.", exact=True)).to_be_visible()


@pytest.mark.parametrize("boxes", [[BOX], []])
def test_what_a_model_s_own_code_says_is_shown_as_text(
    visit: Visit, digits: Stack, tmp_path: Path, boxes: list[tuple[int, int, int, int]]
) -> None:
    page = visit(digits.url)
    result = {"verdict": "<b>one</b>", "count": 1}
    body = json.dumps(json.loads(answer(*boxes)) | {"result": result})
    page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type="application/json"))
    page.set_input_files("#files", photo(tmp_path, orientation=1))
    text = page.locator("pre.result")
    expect(text).to_be_visible()
    assert json.loads(text.inner_text()) == result
    expect(page.locator(".ranking .label")).to_have_count(len(boxes))
    expect(page.get_by_text("Nothing was found.", exact=True)).to_have_count(0)
