"""The JavaScript of docs/clients.md, in a page of the running service: it prints what the document says."""

import pytest
from playwright.sync_api import expect

from tests.browser.pages import SEVEN, Visit
from tests.support.stack import Stack
from tests.test_docs import CLIENTS, told

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]

BLOCKS = told("js", CLIENTS)


def test_there_are_some() -> None:
    assert len(BLOCKS) == CLIENTS.count("```js\n") == 2


@pytest.mark.parametrize(("block", "printed"), BLOCKS)
def test_a_block_prints_what_the_page_says(visit: Visit, digits: Stack, block: str, printed: str) -> None:
    page = visit(f"{digits.url}/healthz")  # of the service, and without scripts of its own
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), {type: 'file'}))")
    page.set_input_files("input[type=file]", SEVEN)
    expect(page.locator("input[type=file]")).to_have_count(1)
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text))
    page.evaluate("async () => {" + block.replace("http://localhost:5000", digits.url) + "}")
    assert said == [printed.strip()]
