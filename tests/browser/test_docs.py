"""/docs in a real Chromium: Swagger UI under the page's policy, and a picture sent from it."""

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SEVEN, Visit
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


def _opened(visit: Visit, digits: Stack, operation: str, **options: int) -> Page:
    page = visit(f"{digits.url}/docs", **options)
    page.locator(f"#operations-{operation} .opblock-summary-control").click()
    return page


def test_every_operation_is_shown_and_nothing_is_fetched_from_elsewhere(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{digits.url}/docs")
    expect(page.locator(".opblock")).to_have_count(5)
    assert [url for url in asked if not url.startswith((digits.url, "data:"))] == []
    assert any(url.endswith("/openapi.json") for url in asked)


def test_a_picture_is_sent_from_it(visit: Visit, digits: Stack) -> None:
    page = _opened(visit, digits, "predictions-predict")
    block = page.locator("#operations-predictions-predict")
    block.get_by_role("button", name="Try it out").click()
    block.locator("tr[data-param-name=model] input").fill("digits")
    block.locator("input[type=file]").set_input_files(SEVEN)
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table")
    expect(answer.locator("tbody .response-col_status").first).to_contain_text("200")
    expect(answer.locator(".highlight-code").first).to_contain_text('"label": "7"')
    expect(answer).to_contain_text("x-request-id")


def test_the_example_in_json_can_be_sent_as_it_is(visit: Visit, digits: Stack) -> None:
    page = _opened(visit, digits, "predictions-predict")
    block = page.locator("#operations-predictions-predict")
    block.get_by_role("button", name="Try it out").click()
    block.locator("tr[data-param-name=model] input").fill("digits")
    block.locator(".opblock-section-request-body select").first.select_option("application/json")
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table .highlight-code").first).to_contain_text('"label": "1"')


def test_it_fits_a_phone(visit: Visit, digits: Stack) -> None:
    page = _opened(visit, digits, "predictions-predict", width=390, height=844)
    expect(page.get_by_text("Every address that takes GET")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_leads_there(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock")).to_have_count(5)
