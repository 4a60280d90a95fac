"""A service that asks for API keys: the browser asks its user for one, and the page works with it."""

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from broker.connection import connect
from broker.keys import Keys
from tests.browser.pages import Visit
from tests.browser.test_repeat import copied
from tests.support.api_keys import add_key
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


@pytest.mark.refusals  # the challenge is a 401, which Chromium reports
def test_the_page_works_with_the_key_that_the_browser_asked_for(
    visit: Visit, own_redis: RedisServer, tmp_path: Path
) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        text = add_key(client, Keys("bw:"), "ann")
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["API_KEYS"] = "required"
    with web_up(stack):
        stack.start("tests.e2e.shades_server", str(stack.executions), log="model_server")
        eventually(lambda: stack.answers(f"/readyz?model={MODEL}"), within_s=60)
        permissions = ["clipboard-read", "clipboard-write"]
        page = visit(
            stack.url, http_credentials={"username": "any", "password": text}, permissions=permissions
        )
        expect(page.locator("#model")).to_have_value(MODEL)
        page.set_input_files("#files", {"name": "x.png", "mimeType": "image/png", "buffer": shade(7)})
        expect(page.locator(".card[data-state=answered]")).to_have_count(1)
        (tmp_path / "x.png").write_bytes(shade(7))
        for what, command in (("curl", ["sh", "-c"]), ("Python", [sys.executable, "-c"])):
            repeated = copied(page, what)
            for key, word in ((text, '"success"'), ("KEY", '"unauthorized"')):
                done = subprocess.run(
                    [*command, repeated.replace("KEY", key)],
                    cwd=tmp_path,
                    capture_output=True,
                    timeout=30,
                    check=True,
                )
                assert word in done.stdout.decode().replace("'", '"'), (what, key)
        expect(page.locator(".repeat .hint")).to_contain_text("KEY stands for your API key.")
        page.goto(f"{stack.url}/status")
        expect(page.get_by_text(MODEL).first).to_be_visible()
