"""Debian's Chromium without a window, driven by Playwright; nothing is downloaded, and nothing looked up."""

import contextlib
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, expect, sync_playwright

BINARY = shutil.which("chromium-headless-shell") or shutil.which("chromium")
"""The first is the second without windows and profiles: a new page of it takes a quarter of the time."""

# What is waited for comes in milliseconds; on a machine that is busy with other things, in seconds.
expect.set_options(timeout=20_000)


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser whose camera is a test picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BINARY,
            args=[
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()
