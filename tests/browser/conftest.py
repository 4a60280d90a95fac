"""A real Chromium, and real services for it: digits beside a model that failed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import chromium as debian
from tests.conftest import RedisServer, running_redis
from tests.e2e.conftest import ROOT, Stack, stack
from tests.fakes import eventually

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


@pytest.fixture
def visit(chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Open a page. What Chromium complains of (a policy that is broken, a script that failed) fails the test.

    Except for answers that are errors, where the test is marked to get some.
    """
    complaints: list[str] = []
    contexts = []

    def opened(url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Page:  # noqa: ANN401
        context = chromium.new_context(
            **{"locale": "en-US", "viewport": {"width": width, "height": height}, **options}
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
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
    eventually(lambda: service.answers("/readyz?model=digits"), within_s=90)
    eventually(lambda: "could not be downloaded" in service.text("/"), within_s=90)


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
