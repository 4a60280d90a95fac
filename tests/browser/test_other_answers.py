"""Answers without predictions: numbers, a vector, a picture, outputs; shown under the page's policy."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.pages import Visit
from tests.support.stack import Stack, shade

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def show(visit: Visit, stack: Stack, folder: Path, fields: dict[str, Any]) -> Page:
    """The page with an answer that has these fields."""
    about = {"success": True, "model": "m", "id": "1", "model_version": "v", "engine": "e", "precision": "p"}
    timings = {"waiting": 1.0, "batch": 1.0, "model": 20.0}
    body = json.dumps({**about, "predictions": [], **fields, "batch_size": 1, "timings_ms": timings})
    page = visit(stack.url)
    page.route("**/predict?*", lambda route: route.fulfill(body=body, content_type="application/json"))
    picture = folder / "x.png"
    picture.write_bytes(shade(9))
    page.set_input_files("#files", picture)
    expect(page.locator(".card .timing")).to_have_count(1)
    return page


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"values": {"age": 34.25, "height": -2}}, ["age", "34.25", "height", "-2"]),
        ({"embedding": [0.125] * 20}, ["A vector of 20 numbers", "0.1250, 0.1250", "…"]),
        ({"outputs": {"boxes": {"shape": [2, 1], "data": [0.5, 0.25]}}}, ["boxes: 2", "0.5000, 0.2500"]),
        ({}, ["Nothing was found."]),
    ],
)
def test_it_is_told_in_words(
    visit: Visit, digits: Stack, tmp_path: Path, fields: dict[str, Any], shown: list[str]
) -> None:
    text = show(visit, digits, tmp_path, fields).locator(".card .body").inner_text()
    assert [each for each in shown if each not in text] == []


def test_a_picture_that_was_made_is_shown(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    made = io.BytesIO()
    Image.new("RGB", (50, 40), (200, 30, 30)).save(made, "PNG")
    page = show(visit, digits, tmp_path, {"image": base64.b64encode(made.getvalue()).decode()})
    image = page.get_by_alt_text("The picture that m made")
    expect(image).to_be_visible()
    expect(image).to_have_js_property("naturalWidth", 50)
