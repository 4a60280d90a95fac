"""/docs in a real Chromium: Swagger UI under the page's policy, and a picture sent from it."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit
from tests.support.stack import Stack
from web.openapi.operations import OPERATIONS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]

SHOWN = len(OPERATIONS) - 1
"""`GET /jobs` needs API_KEYS=required."""

SWAGGER_UIS_OWN = {"heading-order", "landmark-unique", "nested-interactive", "region"}
"""What axe says of its markup, which no style mends."""


def _opened(visit: Visit, digits: Stack, operation: str, **options: object) -> Page:
    page = visit(f"{digits.url}/docs", **options)
    page.locator(f"#operations-{operation} .opblock-summary-control").click()
    return page


def test_every_operation_is_shown_and_nothing_is_fetched_from_elsewhere(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{digits.url}/docs")
    expect(page.locator(".opblock")).to_have_count(SHOWN)
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


def test_its_console_stays_empty(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{digits.url}/docs")
    expect(page.locator("#operations-predictions-similarity")).to_be_visible()  # all() waits for nothing
    # Of each kind two operations, its last: to open all of them takes Swagger UI 40 s of CPU.
    last = page.locator(
        ".opblock-tag-section .operation-tag-content > span:nth-last-child(-n+2) .opblock"
    ).all()
    assert len(last) > 5
    for block in last:
        block.locator(".opblock-summary-control").click()
        block.get_by_role("button", name="Try it out").click()
        expect(block.get_by_role("button", name="Execute")).to_be_visible()
        block.locator(".opblock-summary-control").click()  # every click renders again all that is open
    block = page.locator("#operations-predictions-predict")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    files = block.locator("input[type=file]")
    expect(files).to_have_count(1)
    block.get_by_role("button", name="Add string item").click()
    expect(files).to_have_count(2)
    assert said == []


@pytest.mark.parametrize(
    ("width", "scheme", "locale", "title", "back"),
    [
        (390, "light", "en", "API", "Try it"),
        (390, "dark", "zh-CN", "接口", "试一试"),
        (1280, "light", "zh-CN", "接口", "试一试"),
        (1280, "dark", "en", "API", "Try it"),
    ],
)
def test_it_is_in_the_frame_of_the_other_pages(
    visit: Visit, digits: Stack, width: int, scheme: str, locale: str, title: str, back: str
) -> None:
    page = visit(f"{digits.url}/docs", width=width, color_scheme=scheme, locale=locale)
    expect(page.locator("#title")).to_have_text(title)
    expect(page).to_have_title(re.compile(f"^{title} . Batchwire$"))
    expect(page.locator(".opblock")).to_have_count(SHOWN)
    found = Axe().run(page, context={"exclude": [["#docs"]]}).response["violations"]
    assert found == []
    colour = """place => {
        const [red, green, blue] = getComputedStyle(place).color.match(/[0-9]+/g);
        return Number(red) + Number(green) + Number(blue);
    }"""
    is_bright = page.locator(".opblock-summary-path").first.evaluate(colour) > 384
    assert is_bright is (scheme == "dark")
    # Its ground reaches the foot of the page: the browser takes the body's for one that has none.
    grounds = "['html', 'body'].map(name => getComputedStyle(document.querySelector(name)).backgroundColor)"
    around, own = page.evaluate(grounds)
    assert around in (own, "rgba(0, 0, 0, 0)")
    header = page.locator("header").inner_text()
    page.get_by_role("link", name=back).click()
    expect(page.locator("#drop")).to_be_visible()
    assert page.locator("header").inner_text() == header
    assert page.locator("html").get_attribute("lang") == locale


def test_the_example_in_json_can_be_sent_as_it_is(visit: Visit, digits: Stack) -> None:
    page = _opened(visit, digits, "predictions-predict")
    block = page.locator("#operations-predictions-predict")
    block.get_by_role("button", name="Try it out").click()
    block.locator("tr[data-param-name=model] input").fill("digits")
    block.locator(".opblock-section-request-body select").first.select_option("application/json")
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table .highlight-code").first).to_contain_text('"label": "1"')


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_an_operation_can_be_read(visit: Visit, digits: Stack, width: int, scheme: str) -> None:
    page = _opened(visit, digits, "predictions-predict", width=width, color_scheme=scheme)
    expect(page.get_by_text("Every address that accepts GET")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cells = page.locator("table.headers tbody td")
    expect(cells.first).to_have_text("X-Request-ID")
    # Neither a name nor a type is broken into lines, nor beyond the edge.
    lines = """cells => cells.filter((cell, at) => at % 3 != 1).map(cell => {
        const text = document.createRange();
        text.selectNodeContents(cell);
        const places = [...text.getClientRects()].filter(({ width }) => width);
        return [new Set(places.map(({ top }) => top)).size, places.every(({ right }) => right <= innerWidth)];
    })"""
    found = cells.evaluate_all(lines)
    assert len(found) > 20
    assert [each for each in found if each != [1, True]] == []
    assert page.locator("#docs").evaluate("docs => docs.scrollWidth - docs.clientWidth") <= 1
    assert _faults(page) == []
    page.get_by_role("button", name="Try it out").click()
    expect(page.get_by_role("button", name="Execute")).to_be_visible()
    assert _faults(page) == []


def _faults(page: Page) -> list[str]:
    """What axe finds, but for SWAGGER_UIS_OWN."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html']}"
        for each in found
        for node in each["nodes"]
        if each["id"] not in SWAGGER_UIS_OWN
    ]


def test_its_examples_are_answers_as_they_come(visit: Visit, digits: Stack) -> None:
    page = _opened(visit, digits, "predictions-predict")
    answer = page.locator("#operations-predictions-predict tr[data-code='200']")
    expect(answer.locator("pre.example")).to_contain_text('"label": "7"')
    answer.locator(".examples-select-element").select_option("A detector's")
    expect(answer.locator("pre.example")).to_contain_text('"box": [')
    expect(page.locator("tr[data-code='202'] pre.example").first).to_contain_text('"/predictions/')


def test_the_page_leads_there(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock")).to_have_count(SHOWN)
