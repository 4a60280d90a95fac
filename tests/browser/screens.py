"""`python -m tests.browser.screens [FOLDER]`: pictures of the pages, of a service that is started for them.

Without a folder: docs/page.png, for the README. With one: what a person may come to see, at both widths, in
both schemes and both languages, to be looked at; photographs only where TEST_DATA has some.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import BINARY, launched
from tests.browser.pages import SEVEN, digits_stack, has_started, start
from tests.browser.strokes import draw
from tests.e2e import test_detection as detection
from tests.e2e import test_imported as imported
from tests.support import ROOT, http
from tests.support.real_data import MOBILENET, PHOTOS, YOLO
from tests.support.redis_server import running_redis
from tests.support.stack import Stack
from tests.support.waiting import eventually

LOOKS: Final = ((390, "light", "en"), (390, "dark", "zh-CN"), (1280, "light", "zh-CN"), (1280, "dark", "en"))
PHOTOGRAPHS: Final = sorted(PHOTOS.glob("*.[jb][pm][gp]"))
"""Empty where there are none."""


def main(folder: Path | None) -> None:
    """Make the pictures."""
    if BINARY is None:
        sys.exit("Debian's chromium is not installed: apt install chromium-headless-shell fonts-noto-cjk")
    with tempfile.TemporaryDirectory() as scratch, running_redis() as redis, launched() as browser:
        stack = digits_stack(Path(scratch), redis, LEASE_S="10")  # nobody lapses because the machine is busy
        if folder is not None and PHOTOGRAPHS:
            _add_networks(stack, Path(scratch) / "models")
        try:
            start(stack)
            if folder is None:
                _for_the_readme(browser, stack.url)
            else:
                eventually(lambda: '"loading"' not in stack.text("/models"), within_s=120)
                folder.mkdir(parents=True, exist_ok=True)
                _all(browser, stack.url, folder)
        finally:
            stack.stop()


def _add_networks(stack: Stack, folder: Path) -> None:
    """Serve a classifier and a detector of photographs as well."""
    shutil.copytree(ROOT / "models", folder)
    for name, network, toml in (("mobilenet", MOBILENET, imported.TOML), ("yolo", YOLO, detection.TOML)):
        shutil.copytree(network, folder / name)
        (folder / name / "model.toml").write_text(toml)
    cache = str(folder.parent / "cache")
    stack.environment |= {
        "MODELS_DIR": str(folder),
        "CACHE_DIR": cache,
        "MODELS": "resnet50,digits,mobilenet,yolo",
    }


def _for_the_readme(browser: Browser, url: str) -> None:
    page = _opened(browser, url, 1000, "light", "en")
    _drawn(page)
    page.screenshot(path=ROOT / "docs" / "page.png", full_page=True)


def _all(browser: Browser, url: str, folder: Path) -> None:
    for width, scheme, locale in LOOKS:
        for name, scene in SCENES.items():
            page = _opened(browser, url, width, scheme, locale)
            scene(page)
            _shoot(page, folder / f"{name}-{width}-{scheme}-{locale}.png")
        _status(
            _opened(browser, f"{url}/status", width, scheme, locale),
            folder / f"status-{width}-{scheme}-{locale}.png",
        )
    with _load(url):
        for width, scheme, locale in LOOKS:
            page = _opened(browser, f"{url}/status", width, scheme, locale)
            page.wait_for_timeout(15_000)
            _shoot(page, folder / f"loaded-{width}-{scheme}-{locale}.png")


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
    has_started(page)
    return page


def _shoot(page: Page, path: Path) -> None:
    page.evaluate("scrollTo(0, 0)")
    # Not by full_page: for that a telephone becomes a desktop, mouse and all.
    size = page.viewport_size
    height = page.evaluate("document.documentElement.scrollHeight")
    assert size is not None
    page.set_viewport_size({"width": size["width"], "height": height})
    page.wait_for_timeout(500)  # fonts, and what still moves
    page.screenshot(path=path)
    page.unroute_all(behavior="ignoreErrors")  # one may wait for ever
    page.context.close()


def _ask(page: Page, model: str, pictures: list[Path], state: str = "answered") -> None:
    page.select_option("#model", model)
    page.set_input_files("#files", pictures)
    expect(page.locator(f".card[data-state={state}]")).to_have_count(len(pictures))


def _classified(page: Page) -> None:
    """Several photographs, and the commands that repeat one."""
    _ask(page, "mobilenet" if PHOTOGRAPHS else "digits", PHOTOGRAPHS or [SEVEN] * 3)
    page.locator("summary").first.click()


def _detected(page: Page) -> None:
    """Boxes over photographs."""
    if PHOTOGRAPHS:
        _ask(page, "yolo", [path for path in PHOTOGRAPHS if path.stem in ("dog", "person", "sunflower")])


def _drawn(page: Page) -> None:
    draw(page, "3")
    expect(page.locator("#read")).to_contain_text("3 (")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)


def _failed(page: Page) -> None:
    """A model that failed, and a file that is no picture."""
    _ask(page, "resnet50", [SEVEN], "failed")
    page.set_input_files(
        "#files", {"name": "a.heic", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic" * 9}
    )
    expect(page.locator(".card[data-state=failed]")).to_have_count(2)


def _overloaded(page: Page) -> None:
    """A refusal, made here; and one that still waits."""
    error = {"code": "overloaded", "message": "1024 pictures wait for digits, and more are refused."}
    body = json.dumps({"success": False, "error": error})
    page.route(
        "**/predict?*", lambda route: route.fulfill(status=503, body=body, headers={"Retry-After": "4"})
    )
    _ask(page, "digits", [SEVEN], "failed")
    page.route("**/predict?*", lambda _: None)
    _ask(page, "digits", [SEVEN], "waiting")


def _unreachable(page: Page) -> None:
    page.context.set_offline(True)
    _ask(page, "digits", [SEVEN], "failed")
    expect(page.locator("#problem")).to_be_visible()


def _status(page: Page, path: Path) -> None:
    expect(page.locator(".badge").first).to_be_visible()
    page.wait_for_timeout(5_000)
    _shoot(page, path)


SCENES: Final[dict[str, Callable[[Page], None]]] = {
    "empty": lambda _: None,
    "classified": _classified,
    "detected": _detected,
    "drawn": _drawn,
    "failed": _failed,
    "overloaded": _overloaded,
    "unreachable": _unreachable,
}


@contextlib.contextmanager
def _load(url: str) -> Iterator[None]:
    """Clients that ask without a pause."""
    stopping = threading.Event()

    def ask(model: str) -> None:
        with http.client(timeout=20) as client:
            while not stopping.wait(0.02):
                client.post(
                    f"{url}/predict?model={model}",
                    content=SEVEN.read_bytes(),
                    headers={"Content-Type": "image/png"},
                )

    clients = [
        threading.Thread(target=ask, args=(model,)) for model in ("digits", "digits", "mobilenet", "yolo")
    ]
    for each in clients:
        each.start()
    try:
        yield
    finally:
        stopping.set()
        for each in clients:
            each.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
