"""The first moments of the page, on a slow line: nothing moves, nothing is lost, and the focus stays."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.pages import SEVEN, Visit, has_started, holding
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]

PLACES = ("h1", "#model", "#about", "#drop", ".button:has(#files)", "#camera", "#draw", "#paper")


def held(page: Page, url: str) -> Callable[[], None]:
    """Open the page without its script; returns what lets that come."""
    scripts = holding(page, "**/page.js")
    with page.expect_event("request", lambda request: request.url.endswith("/page.js")):
        page.goto(url, wait_until="commit")
    expect(page.locator("body")).to_have_css("margin", "0px")  # its style is there
    expect(page.locator("#said")).to_be_attached()  # and its end
    assert len(scripts) == 1

    def release() -> None:
        scripts[0].continue_()
        has_started(page)

    return release


def places(page: Page) -> dict[str, tuple[int, ...]]:
    """Where everything is, in pixels."""
    found: dict[str, tuple[int, ...]] = {}
    for each in PLACES:
        box = page.locator(each).bounding_box()
        found[each] = tuple(round(box[side]) for side in ("x", "y", "width", "height")) if box else ()
    return found


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_when_the_script_comes(visit: Visit, digits: Stack, width: int, locale: str) -> None:
    page = visit("about:blank", width=width, locale=locale)
    release = held(page, digits.url)
    before = places(page)
    said = page.locator("#about").inner_text()
    release()
    assert places(page) == before
    assert page.locator("#about").inner_text() == said


@pytest.mark.parametrize("stop", ["model", "files"])
def test_the_focus_stays_and_the_tab_key_goes_on_from_there(visit: Visit, digits: Stack, stop: str) -> None:
    page = visit("about:blank")
    release = held(page, digits.url)
    page.focus(f"#{stop}")
    release()
    expect(page.locator(f"#{stop}")).to_be_focused()
    order = ["model", "files", "camera", "paper"]
    for following in order[order.index(stop) + 1 :]:
        page.keyboard.press("Tab")
        expect(page.locator(f"#{following}")).to_be_focused()


def test_a_picture_that_is_chosen_before_the_script_is_there_counts(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    release = held(page, digits.url)
    page.set_input_files("#files", SEVEN)
    assert page.locator(".card").count() == 0
    release()
    expect(page.locator(".card .ranking .label").first).to_have_text("7")


@pytest.mark.refusals
def test_a_model_that_is_chosen_before_the_script_is_there_stays(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    release = held(page, digits.url)
    page.select_option("#model", "resnet50")
    release()
    expect(page.locator("#trouble")).to_contain_text("resnet50 could not be loaded.")
    expect(page.locator("#model")).to_have_value("resnet50")


@pytest.mark.refusals
@pytest.mark.parametrize("status", [0, 503])
def test_words_that_do_not_come_at_once_are_asked_for_again(visit: Visit, digits: Stack, status: int) -> None:
    page = visit("about:blank")
    refused: list[str] = []

    def once(route: Route) -> None:
        if refused:
            route.continue_()
            return
        refused.append(route.request.url)
        if status:
            route.fulfill(status=status, body='{"success": false}', content_type="application/json")
        else:
            route.abort()

    page.route("**/text/en.json", once)
    page.goto(digits.url)
    has_started(page)
    assert refused
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".timing h4")).to_contain_text("Answered in")


@pytest.mark.parametrize("path", ["/", "/status", "/upload"])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_header_is_one_line_on_a_telephone(visit: Visit, digits: Stack, locale: str, path: str) -> None:
    """In a wider font than this machine's, too: a pixel more for each letter is some eight in a hundred."""
    page = visit(digits.url + path, width=390, locale=locale, java_script_enabled=False)
    links = page.locator("body > header a")
    expect(links).to_have_count(5)
    page.evaluate("document.documentElement.style.letterSpacing = '1px'")
    boxes = [each.bounding_box() for each in links.all()]
    middles = {round(box["y"] + box["height"] / 2) for box in boxes if box}
    assert max(middles) - min(middles) <= 2
    assert all(box and box["x"] + box["width"] <= 390 for box in boxes)
