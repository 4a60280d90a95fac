"""The commands that repeat a request do: copied by the button, run by a real shell and a real Python."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.pages import SEVEN, Visit
from tests.browser.strokes import draw
from tests.support.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


def copied(page: Page, what: str) -> str:
    """What the copy button of a command puts on the clipboard."""
    if not page.locator(".card details[open]").count():
        page.get_by_text("Repeat this request").click()
    page.evaluate("document.getElementById('said').textContent = ''")  # what was copied before
    page.get_by_role("button", name=f"Copy: {what}").click()
    expect(page.locator("#said")).to_have_text("Copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


@pytest.mark.parametrize(
    "name",
    [
        "digit-7.png",
        'it\'s a 7; "really", $HOME `x` \\ 50%.png',
        "手写.png",
        "-F.png",
        "@7.png",
        "a,b;type=x.png",
    ],
)
def test_curl_and_python_say_the_same_again(visit: Visit, digits: Stack, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(SEVEN.read_bytes())
    page = visit(digits.url, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", tmp_path / name)
    expect(page.locator(".card[data-state=answered]")).to_have_count(1)
    commands = {
        "curl": ["sh", "-c", copied(page, "curl")],
        "Python": [sys.executable, "-c", copied(page, "Python")],
    }
    for what, command in commands.items():
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        if what == "curl":
            assert json.loads(done.stdout)["predictions"][0]["label"] == "7"
        assert "'label': '7'" in done.stdout or '"label":"7"' in done.stdout.replace(" ", "")
    assert json.loads(copied(page, "JSON"))["predictions"][0]["label"] == "7"


def test_the_python_can_be_pasted_into_an_interactive_one(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url, permissions=["clipboard-read", "clipboard-write"])
    page.set_input_files("#files", SEVEN)
    program = copied(page, "Python")
    done = subprocess.run(
        [sys.executable, "-i"],
        input=program,
        cwd=SEVEN.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "'label': '7'" in done.stdout, done.stderr


def test_a_drawing_can_be_saved_for_the_command(visit: Visit, digits: Stack, tmp_path: Path) -> None:
    page = visit(digits.url, permissions=["clipboard-read", "clipboard-write"])
    draw(page, "7")
    expect(page.locator("#read")).to_contain_text("7 (")
    page.get_by_text("Repeat this request").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the picture").click()
    assert download.value.suggested_filename == "drawing.png"
    download.value.save_as(tmp_path / "drawing.png")
    done = subprocess.run(["sh", "-c", copied(page, "curl")], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["predictions"][0]["label"] == "7"


def test_without_a_clipboard_it_is_copied_the_old_way(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url)
    page.evaluate("delete Navigator.prototype.clipboard")
    page.set_input_files("#files", SEVEN)
    page.get_by_text("Repeat this request").click()
    page.get_by_role("button", name="Copy: curl").click()
    expect(page.locator("#said")).to_have_text("Copied")
    assert page.evaluate("getSelection().toString()").startswith("curl -X POST -F image=@digit-7.png ")
