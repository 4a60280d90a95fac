"""The status page: what operators look at first, as it is and as it was."""

import re
import threading
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Visit
from tests.conftest import RedisServer
from tests.e2e.conftest import Stack, shade

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
def loaded(stack: Stack) -> Iterator[Stack]:
    """A service that answers without a pause, some twenty pictures a second."""
    stack.start_model_server(delay_s=0.1)
    stopping = threading.Event()

    def ask() -> None:
        with httpx.Client(trust_env=False, timeout=20) as client:
            while not stopping.wait(0.01):
                client.post(stack.url + "/predict", content=shade(3), headers={"Content-Type": "image/png"})

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    yield stack
    stopping.set()
    for each in clients:
        each.join()


def figure(page: Page, title: str) -> str:
    """The newest value of a plot."""
    return page.locator(".plot", has_text=title).locator("strong").inner_text()


def test_throughput_latency_and_workers_while_it_works(visit: Visit, loaded: Stack) -> None:
    page = visit(loaded.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    throughput = page.locator(".plot", has_text="Throughput")
    expect(throughput.locator("strong")).not_to_have_text("0/s", timeout=10_000)
    page.wait_for_timeout(6_000)
    rate = float(figure(page, "Throughput").removesuffix("/s"))
    began = httpx.get(loaded.url + "/models", trust_env=False).json()
    page.wait_for_timeout(4_000)
    ended = httpx.get(loaded.url + "/models", trust_env=False).json()
    workers = [said["models"][0]["workers"][0] for said in (began, ended)]
    spoken = workers[1]["heartbeat"] - workers[0]["heartbeat"]
    assert rate == pytest.approx((workers[1]["pictures"] - workers[0]["pictures"]) / spoken, rel=0.4)
    assert 100 < float(figure(page, "Latency").removesuffix(" ms")) < 600
    points = throughput.locator("path.line").get_attribute("d") or ""
    assert points.count("L") >= 3
    assert re.fullmatch(
        r"Throughput: now [\d.]+/s, at most [\d.]+/s",
        throughput.locator("svg").get_attribute("aria-label") or "",
    )
    cells = page.locator("tbody td").all_inner_texts()
    assert cells[0] == workers[1]["id"][:8]
    assert cells[1] == "ready"
    assert re.fullmatch(r"[\d.]+ s ago", cells[2])
    assert int(cells[3].replace(",", "")) >= workers[0]["pictures"]
    page.reload()
    expect(throughput.locator("path.line")).to_have_attribute("d", re.compile("L.*L"))


def test_workers_come_and_go(visit: Visit, stack: Stack) -> None:
    process = stack.start_model_server()
    page = visit(stack.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    stack.start_model_server()
    expect(page.locator("tbody tr")).to_have_count(2, timeout=10_000)
    process.kill()
    expect(page.locator("tbody tr")).to_have_count(1, timeout=10_000)
    assert "1 / 1" in page.locator(".totals").inner_text()


def test_a_failed_model_has_its_reason(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url + "/status")
    failed = page.locator("[data-model=resnet50]")
    expect(failed.locator(".badge")).to_have_text("failed")
    expect(failed.locator(".problem")).to_contain_text("RESNET50_WEIGHTS=random")
    expect(failed.locator(".hint").first).to_contain_text("the default model")
    expect(page.locator("[data-model=digits] .problem")).to_be_hidden()


@pytest.mark.refusals
def test_without_redis_and_without_the_service(visit: Visit, stack: Stack, own_redis: RedisServer) -> None:
    stack.start_model_server()
    page = visit(stack.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    own_redis.stop(kill=True)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("The service has lost its queue.", timeout=10_000)
    stack.stop()
    expect(problem).to_contain_text("The service can't be reached.", timeout=10_000)
