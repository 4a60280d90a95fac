"""A real Chromium, and real services for it: digits beside a model that failed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.browser import chromium as debian
from tests.browser.pages import Visit, has_started
from tests.browser.sharing import shared_digits
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, web_up


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of all tests; each has its own contexts."""
    if debian.BINARY is None:
        pytest.skip("NOT RUN: Debian's chromium is not installed")
    with debian.launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Open a page, and wait until its script has taken over. Nothing scrolls or turns while it is measured.

    What Chromium complains of (a policy that is broken, a script that failed) fails the test.

    Except for answers that are errors, where the test is marked to get some.
    """
    complaints: list[str] = []
    contexts = []

    def hear(said: ConsoleMessage) -> None:
        # Where others have the cores, Redis may not answer in the second that it has: the page asks again.
        is_late = said.location["url"].endswith("/models") and "503" in said.text
        if said.type == "error" and not is_late:
            complaints.append(said.text)

    def opened(url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Page:  # noqa: ANN401
        context = chromium.new_context(
            **{
                "locale": "en-US",
                "viewport": {"width": width, "height": height},
                "reduced_motion": "reduce",
                **options,
            }
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        if options.get("java_script_enabled", True):
            has_started(page)
        return page

    yield opened
    for context in contexts:
        context.close()
    if request.node.get_closest_marker("refusals"):
        complaints = [each for each in complaints if not each.startswith("Failed to load resource")]
    assert complaints == []


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A service of the test's own, its web tier up and no model server yet."""
    with web_up(Stack(tmp_path, own_redis.url)) as stack:
        yield stack


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service that most tests share, in all processes of pytest-xdist; none of them harms it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the run's
    folder /= "digits"
    folder.mkdir(exist_ok=True)
    with shared_digits(folder) as service:
        yield service
