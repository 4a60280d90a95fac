"""`python -m tests.browser.screens [FOLDER]`: pictures of the pages, of a service that is started for them.

Without a folder: docs/page.png, for the README. With one: every page at both widths, in both schemes and both
languages, to be looked at.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import BINARY, launched
from tests.browser.conftest import SEVEN, digits_stack, start
from tests.browser.strokes import draw
from tests.conftest import running_redis
from tests.e2e.conftest import ROOT

WIDTHS: Final = (390, 1280)
SCHEMES: Final = ("light", "dark")
LOCALES: Final = ("en", "zh-CN")


def main(folder: Path | None) -> None:
    """Make the pictures."""
    if BINARY is None:
        sys.exit("Debian's chromium is not installed: apt install chromium fonts-noto-cjk")
    with tempfile.TemporaryDirectory() as scratch, running_redis() as redis, launched() as browser:
        stack = digits_stack(Path(scratch), redis)
        try:
            start(stack)
            if folder is None:
                _for_the_readme(browser, stack.url)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                _all(browser, stack.url, folder)
        finally:
            stack.stop()


def _for_the_readme(browser: Browser, url: str) -> None:
    page = _opened(browser, url, 1000, "light", "en")
    _draw(page)
    page.screenshot(path=ROOT / "docs" / "page.png", full_page=True)


def _all(browser: Browser, url: str, folder: Path) -> None:
    for width, scheme, locale in itertools.product(WIDTHS, SCHEMES, LOCALES):
        page = _opened(browser, url, width, scheme, locale)
        page.screenshot(path=folder / f"first-{width}-{scheme}-{locale}.png")
        _fill(page)
        page.locator("summary").first.click()
        page.screenshot(path=folder / f"page-{width}-{scheme}-{locale}.png", full_page=True)
        page.goto(f"{url}/status")
        expect(page.locator(".badge")).to_have_count(2)
        page.wait_for_timeout(5_000)
        page.screenshot(path=folder / f"status-{width}-{scheme}-{locale}.png", full_page=True)
        page.context.close()


def _opened(browser: Browser, url: str, width: int, scheme: str, locale: str) -> Page:
    is_phone = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": 844 if is_phone else 800},
        color_scheme="dark" if scheme == "dark" else "light",
        locale=locale,
        has_touch=is_phone,
        is_mobile=is_phone,
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#draw")).to_be_visible()
    return page


def _fill(page: Page) -> None:
    """A picture that is answered, one that is not, and a drawing."""
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)
    page.select_option("#model", "resnet50")
    page.set_input_files("#files", SEVEN)
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    _draw(page)


def _draw(page: Page) -> None:
    draw(page, "3")
    expect(page.locator("#read")).to_contain_text("3 (")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
