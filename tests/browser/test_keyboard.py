"""Everything without a mouse; and the focus is never lost with the thing that had it."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit
from tests.browser.strokes import draw
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def stops(page: Page, count: int) -> list[str]:
    """What the Tab key comes to, by its name: from the top of the page."""
    names = []
    for _ in range(count):
        page.keyboard.press("Tab")
        names.append(
            page.evaluate(
                """() => {
                    const at = document.activeElement;
                    return at.getAttribute('aria-label') ?? (at.labels?.[0] ?? at).innerText.trim();
                }"""
            )
        )
    return names


def test_the_tab_key_goes_through_the_page_in_its_order(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    assert stops(page, 10) == [
        "Skip to the content",
        "Batchwire",
        "Try it",
        "Status",
        "API",
        "简体中文",
        "Model",
        "Choose pictures",
        "Use the camera",
        "Paper to draw a digit on",
    ]


def test_the_first_link_leads_past_the_others(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#model")).to_be_focused()


def test_who_removes_a_card_goes_on_at_the_next(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    names = ["1.png", "2.png", "3.png"]
    for name in names:
        (tmp_path / name).write_bytes(SEVEN.read_bytes())
    page = visit(digits.url)
    page.set_input_files("#files", [tmp_path / name for name in names])
    page.get_by_role("button", name="Remove 2.png").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove 3.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove 1.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#files")).to_be_focused()
    page.set_input_files("#files", [tmp_path / name for name in names])
    page.get_by_role("button", name="Remove all").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#files")).to_be_focused()


@pytest.mark.refusals
def test_who_tries_again_stays_at_the_card(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.select_option("#model", "resnet50")
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    page.select_option("#model", "digits")
    page.get_by_role("button", name="Try digit-7.png again").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)
    expect(page.get_by_role("heading", name="digit-7.png")).to_be_focused()


@pytest.mark.parametrize("button", ["Clear", "Undo"])
def test_who_clears_the_paper_goes_on_at_it(visit: Visit, digits: Stack, button: str) -> None:
    page = visit(digits.url)
    draw(page, "1")
    page.get_by_role("button", name=button).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#paper")).to_be_focused()
    expect(page.get_by_role("button", name=button)).to_be_disabled()


def test_the_camera_gives_the_focus_back(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Take a picture")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()
