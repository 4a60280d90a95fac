"""axe-core finds no fault, nothing is cut off, and the policy is kept: at both widths, in both schemes."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.pages import SEVEN, Visit
from tests.browser.strokes import draw
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True), pytest.mark.refusals]

SCREENS = pytest.mark.parametrize(
    ("width", "scheme", "locale"),
    [(390, "light", "en"), (390, "dark", "zh-CN"), (1280, "light", "zh-CN"), (1280, "dark", "en")],
)


def faults(page: Page) -> list[str]:
    """What axe finds, of any weight."""
    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}: {node['html']}" for each in found for node in each["nodes"]]


def is_cut_off(page: Page) -> bool:
    """Whether the page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@SCREENS
def test_the_page_in_all_its_states(
    visit: Visit, digits: Stack, width: int, scheme: str, locale: str
) -> None:
    page = visit(digits.url, width=width, color_scheme=scheme, locale=locale, has_touch=width == 390)
    expect(page.locator("#draw")).to_be_visible()
    assert faults(page) == []
    page.set_input_files("#files", SEVEN)
    draw(page, "7")
    expect(page.locator("#read")).to_contain_text("7 (")
    page.select_option("#model", "resnet50")
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    page.locator("summary").first.click()
    page.focus("#paper")
    page.keyboard.press("ArrowUp")
    assert faults(page) == []
    assert not is_cut_off(page)


@SCREENS
def test_the_status_page(visit: Visit, digits: Stack, width: int, scheme: str, locale: str) -> None:
    page = visit(digits.url + "/status", width=width, color_scheme=scheme, locale=locale)
    expect(page.locator(".badge")).to_have_count(2)
    assert faults(page) == []
    assert not is_cut_off(page)


def test_the_camera_s_dialog(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["camera"])
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert faults(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.locator("#view").evaluate("view => view.srcObject === null")


def test_the_policy_refuses_markup_and_other_sites(chromium: Browser, digits: Stack) -> None:
    page = chromium.new_page()
    page.goto(digits.url)
    refused = page.evaluate(
        """() => { try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; } }"""
    )
    assert refused
    violated = page.evaluate(
        """() => new Promise(resolve => {
            document.addEventListener('securitypolicyviolation', event => resolve(event.blockedURI));
            const image = new Image(); image.src = 'https://example.org/x.png';
        })"""
    )
    assert violated.startswith("https://example.org")
    page.close()


def test_nothing_comes_from_elsewhere(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(digits.url)
    expect(page.locator("#draw")).to_be_visible()
    page.goto(digits.url + "/status")
    expect(page.locator(".badge")).to_have_count(2)
    assert len(asked) > 10
    assert [each for each in asked if not each.startswith(digits.url)] == []
