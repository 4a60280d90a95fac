"""A real Chromium, and real services for it: digits beside a model that failed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect

from tests.browser import chromium as debian
from tests.conftest import RedisServer, running_redis
from tests.e2e.conftest import Stack, stack
from tests.fakes import eventually
from tests.support import ROOT

__all__ = ["stack"]

Visit = Callable[..., Page]

SEVEN = ROOT / "docs" / "digit-7.png"
NO_PROXY = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser of all tests; each has its own contexts."""
    if debian.BINARY is None:
        pytest.skip("NOT RUN: Debian's chromium is not installed")
    with debian.launched() as browser:
        yield browser


def has_started(page: Page) -> None:
    """Until what only works with the script is there."""
    expect(page.locator(".starting")).to_have_count(0)


def holding(page: Page, address: str) -> list[Route]:
    """Requests for this address, as they come: each waits until the test lets it go on."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(address, hold)
    return held


def until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for something that is told to the test and not to be seen in the page."""

    def held() -> bool:
        page.evaluate("0")  # what was told meanwhile arrives with the answer
        return condition()

    eventually(held)


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


def digits_stack(folder: Path, redis: RedisServer, **settings: str) -> Stack:
    """A service with digits, and a default model that can't be downloaded; not yet started."""
    made = Stack(folder, redis.url)
    home = folder / "home"
    home.mkdir()
    made.environment |= {"MODELS": "resnet50,digits", "MODELS_DIR": str(ROOT / "models"), "HOME": str(home)}
    made.environment |= {"HTTPS_PROXY": NO_PROXY, "https_proxy": NO_PROXY, **settings}
    return made


def start(service: Stack) -> None:
    """Start its processes, and wait until each model is ready or has failed."""
    service.start_web()
    service.start("model_server", log="model_server")
    eventually(lambda: service.answers("/readyz?model=digits"), within_s=150)
    eventually(lambda: "could not be downloaded" in service.text("/"), within_s=150)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The service that most tests share; none of them harms it."""
    with running_redis() as redis:
        made = digits_stack(tmp_path_factory.mktemp("digits"), redis, MAX_UPLOAD_MB="1", MAX_PIXELS="400000")
        try:
            start(made)
            yield made
        finally:
            made.stop()
