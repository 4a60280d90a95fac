"""Pages opened in Chromium, and the services behind them: digits beside a model that failed."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.support import ROOT
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

Visit = Callable[..., Page]

SEVEN = ROOT / "docs" / "digit-7.png"
NO_PROXY = "http://127.0.0.1:9"


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
    """Wait for something that is told to the test and not to be seen in the page.

    Playwright's `wait_for_function` asks from within the page, where the page's policy forbids it: it fails
    unless the condition holds at once.
    """

    def held() -> bool:
        page.evaluate("0")  # what was told meanwhile arrives with the answer
        return condition()

    eventually(held)


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
