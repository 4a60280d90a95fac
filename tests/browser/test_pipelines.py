"""A pipeline's answer on the page: a heading a step, the boxes, and what later steps say of each."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.pages import Visit
from tests.browser.test_other_answers import show
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]

_ABOUT = {"success": True, "model": "m", "id": "1", "model_version": "v", "engine": "e", "precision": "p"}
_ABOUT |= {"batch_size": 1, "timings_ms": {"waiting": 1, "batch": 1, "model": 1}}
_FAILED = {"success": False, "model": "plates", "error": {"code": "no_worker", "message": "Nobody is there."}}
_KIND = {**_ABOUT, "predictions": [{"label": "Siberian_husky", "class_id": "n1", "probability": 0.75}]}
_STEPS = {
    "scene": {**_ABOUT, "predictions": [{"label": "street", "class_id": "0", "probability": 0.5}]},
    "objects": {
        **_ABOUT,
        "predictions": [
            {
                "label": "dog",
                "class_id": "16",
                "probability": 0.9,
                "box": [2, 3, 10, 8],
                "steps": {"kind": _KIND},
            },
            {
                "label": "car",
                "class_id": "2",
                "probability": 0.8,
                "box": [20, 3, 9, 8],
                "steps": {"plate": _FAILED},
            },
        ],
    },
    "weather": {**_FAILED, "model": "sky"},
}


def test_each_step_has_its_answer_or_its_failure(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    page = show(visit, digits, tmp_path, {"steps": _STEPS, "engine": "steps", "precision": "own"})
    assert page.locator(".card .step").all_inner_texts() == ["scene", "objects", "weather"]
    lines = page.locator(".card .ranking.boxed li")
    expect(lines.nth(0).locator(".later")).to_have_text("kind: Siberian husky (75.0%)")
    expect(lines.nth(1).locator(".later")).to_have_text("plate: No model server serves this model now.")
    expect(page.locator(".card .problem")).to_contain_text("Nobody is there.")
    assert "batch of" not in page.locator(".card .body").inner_text()
    assert page.locator(".card .box").all_inner_texts() == ["1 dog", "2 car"]
