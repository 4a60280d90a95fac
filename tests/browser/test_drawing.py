"""The sheet of paper: what is drawn is read, by mouse, by finger and by keyboard."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit, has_started, holding, until
from tests.browser.strokes import DIGITS, draw
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def read(page: Page, digit: str) -> None:
    """Until the sheet's answer is this digit."""
    expect(page.locator("#read")).to_contain_text(f"{digit} (")


@pytest.mark.parametrize("digit", DIGITS)
def test_a_drawn_digit_is_read_when_the_pen_rests(visit: Visit, digits: Stack, digit: str) -> None:
    page = visit(digits.url)
    draw(page, digit)
    read(page, digit)
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card .ranking .label").first).to_have_text(digit)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_ink_is_where_the_pen_was(visit: Visit, digits: Stack, width: int) -> None:
    page = visit(digits.url, width=width)
    expect(page.locator("#draw")).to_be_visible()
    box = page.locator("#paper").bounding_box()
    assert box
    page.mouse.click(box["x"] + 0.85 * box["width"], box["y"] + 0.3 * box["height"])
    inked = page.locator("#paper").evaluate(
        """paper => [[0.85, 0.3], [0.6, 0.21], [0.75, 0.3]].map(([x, y]) =>
            paper.getContext('2d').getImageData(x * paper.width, y * paper.height, 1, 1).data[0] < 128)"""
    )
    assert inked == [True, False, False]


def test_one_drawing_has_one_card_and_the_next_another(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.set_input_files("#files", SEVEN)
    draw(page, "1")
    read(page, "1")
    draw(page, "3")  # over it
    expect(page.locator("#read")).not_to_contain_text("1 (")
    expect(page.locator(".card")).to_have_count(2)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#read")).to_be_empty()
    expect(page.get_by_role("button", name="Recognise")).to_be_disabled()
    draw(page, "7")
    read(page, "7")
    expect(page.locator(".card")).to_have_count(3)


def test_undo_takes_the_last_stroke(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    draw(page, "1")
    read(page, "1")
    draw(page, "7")
    page.get_by_role("button", name="Undo").click()
    read(page, "1")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#read")).to_be_empty()


def test_an_answer_to_what_was_wiped_is_not_told(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    asked = holding(page, "**/predict?*")
    draw(page, "1")
    page.get_by_role("button", name="Recognise").click()
    until(page, lambda: bool(asked))
    page.get_by_role("button", name="Clear").click()
    asked[0].continue_()
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)
    expect(page.locator("#read")).to_be_empty()


def test_the_keyboard_draws(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    paper = page.get_by_role("application", name="Paper to draw a digit on")
    paper.focus()
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(8):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    read(page, "1")


def test_a_finger_draws_and_the_page_stays_where_it_is(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, width=390, has_touch=True, is_mobile=True)
    page.locator("#paper").scroll_into_view_if_needed()
    box = page.locator("#paper").bounding_box()
    assert box
    scrolled = page.evaluate("scrollY")
    finger = page.context.new_cdp_session(page)
    x = box["x"] + box["width"] / 2
    for step in range(9):
        y = box["y"] + box["height"] * (0.15 + step * 0.08)
        kind = "touchMove" if step else "touchStart"
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    read(page, "1")
    assert page.evaluate("scrollY") == scrolled


def test_the_buttons_stand_right_below_the_paper_and_stay_there(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, width=390, height=844)
    page.locator("#paper").scroll_into_view_if_needed()
    edges = """() => [
        document.querySelector('#paper').getBoundingClientRect().bottom,
        document.querySelector('#recognise').getBoundingClientRect().top,
    ].map((edge) => Math.round(edge + scrollY))"""
    paper, buttons = page.evaluate(edges)
    assert 0 < buttons - paper < 24
    draw(page, "7")
    read(page, "7")
    assert page.evaluate(edges) == [paper, buttons]  # where the answer stands there was room for it
    expect(page.locator("#read")).to_be_in_viewport()


def _told(visit: Visit, digits: Stack) -> tuple[Page, dict[str, Any]]:
    """A page that is told of the models what the returned dictionary holds, at first the truth."""
    page = visit("about:blank")
    said = json.loads(digits.text("/models"))
    page.route("**/models", lambda route: route.fulfill(json=said))
    page.goto(digits.url)
    has_started(page)
    return page, said


def test_there_is_a_paper_while_its_reader_lives_or_is_expected(visit: Visit, digits: Stack) -> None:
    page, said = _told(visit, digits)
    expect(page.locator("#draw")).to_be_visible()
    (reader,) = (model for model in said["models"] if model["model"] == "digits")
    assert reader["expected"] is True
    reader |= {"state": "no worker", "workers": []}
    expect(page.locator("#model option[value=digits]")).to_have_text("digits (no worker)")
    expect(page.locator("#draw")).to_be_visible()
    reader["expected"] = False
    expect(page.locator("#draw")).to_be_hidden()
    reader["state"] = "loading"
    expect(page.locator("#draw")).to_be_visible()


@pytest.mark.refusals
def test_a_drawing_whose_reader_has_left_is_asked_of_it_again(visit: Visit, digits: Stack) -> None:
    page, said = _told(visit, digits)
    failure = {"success": False, "error": {"code": "no_worker", "message": "It has left."}}
    page.route("**/predict?*", lambda route: route.fulfill(status=503, json=failure))
    draw(page, "1")
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    said["models"] = [model for model in said["models"] if model["model"] != "digits"]
    expect(page.locator("#draw")).to_be_hidden()
    page.unroute("**/predict?*")
    page.locator(".card .buttons button").click()
    expect(page.locator(".card .ranking .label").first).to_have_text("1")
