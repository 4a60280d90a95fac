"""The status page: what operators look at first, as it is and as it was."""

import json
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Response, expect

from tests.browser.pages import Visit
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180, func_only=True)]


@pytest.fixture
def loaded(stack: Stack) -> Iterator[Stack]:
    """A service that answers without a pause, some twenty pictures a second."""
    stack.start_model_server(delay_s=0.1)
    stopping = threading.Event()

    def ask() -> None:
        with http.client(timeout=20) as client:
            while not stopping.wait(0.01):
                client.post(stack.url + "/predict", content=shade(3), headers={"Content-Type": "image/png"})

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    yield stack
    stopping.set()
    for each in clients:
        each.join()


def figure(page: Page, title: str) -> float:
    """The newest value of a plot."""
    shown = page.locator(".plot", has_text=title).locator("strong").inner_text()
    found = re.fullmatch(r"([\d,.]+)(/s| ms| s)", shown)
    if found is None:
        return math.nan  # nothing is known
    return float(found[1].replace(",", "")) * (1000 if found[2] == " s" else 1)


def listened(page: Page) -> list[dict[str, Any]]:
    """What the page's worker says of itself, as the page hears it."""
    said: list[dict[str, Any]] = []

    def hear(response: Response) -> None:
        if response.url.endswith("/models") and response.ok:
            said.append(response.json()["models"][0]["workers"][0])

    page.on("response", hear)
    return said


def pace(said: list[dict[str, Any]]) -> float:
    """Pictures a second between the worker's last two heartbeats."""
    last = said[-1]
    before = next(each for each in reversed(said) if each["heartbeat"] < last["heartbeat"])
    return float(last["pictures"] - before["pictures"]) / float(last["heartbeat"] - before["heartbeat"])


def test_throughput_latency_and_workers_while_it_works(visit: Visit, loaded: Stack) -> None:
    page = visit("about:blank")
    said = listened(page)
    page.goto(loaded.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    throughput = page.locator(".plot", has_text="Throughput")

    def agrees() -> bool:
        if len({each["heartbeat"] for each in said}) < 4 or not pace(said):
            page.wait_for_timeout(100)
            return False
        took = said[-1]["waiting_ms"] + said[-1]["latency_ms"]
        return figure(page, "Throughput") == pytest.approx(pace(said), abs=0.51) and figure(
            page, "Latency"
        ) == pytest.approx(took, abs=5.1)

    eventually(agrees, within_s=60)
    assert figure(page, "Latency") >= 100  # a call takes that
    points = (throughput.locator("path.line").get_attribute("d") or "").count("L")
    assert points >= 3
    assert re.fullmatch(
        r"Throughput: now [\d.]+/s, at most [\d.]+/s",
        throughput.locator("svg").get_attribute("aria-label") or "",
    )
    cells = page.locator("tbody td").all_inner_texts()
    assert cells[0] == said[0]["id"][:8]
    assert cells[1] == "ready"
    assert re.fullmatch(r"[\d.]+ s ago", cells[2])
    assert int(cells[3].replace(",", "")) >= said[0]["pictures"]
    page.reload()
    line = throughput.locator("path.line[d]")
    expect(line).to_be_attached()
    # The old ones are there at once: new ones come every two seconds.
    assert (line.get_attribute("d") or "").count("L") >= points


def test_workers_come_and_go(visit: Visit, stack: Stack) -> None:
    process = stack.start_model_server()
    page = visit(stack.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    other = stack.start_model_server()
    expect(page.locator("tbody tr")).to_have_count(2)
    process.kill()
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "1 / 1" in page.locator(".totals").inner_text()
    other.kill()
    expect(page.locator(".badge")).to_have_text("no worker")
    expect(page.locator("#said")).to_have_text("shades: no worker")
    expect(page.get_by_text("No live worker.")).to_be_visible()
    assert "0 / 1" in page.locator(".totals").inner_text()


def test_what_was_not_watched_is_a_gap_and_what_is_old_is_gone(visit: Visit, digits: Stack) -> None:
    now = time.time() * 1000
    known = {"queue": 1, "throughput": 0, "waiting": None, "latency": None}
    points = [{"at": now - ago * 1000, **known} for ago in (400, 120, 118, 60, 58)]
    page = visit("about:blank")
    # The service itself was there all the time.
    page.route("**/status/history", lambda route: route.fulfill(json={"time": 0, "samples": []}))
    page.add_init_script(
        f"sessionStorage.setItem('batchwire.status', '{json.dumps({'points': {'digits': points}})}')"
    )
    page.goto(digits.url + "/status")
    line = page.locator("[data-model=digits] .plot", has_text="Queue").locator("path.line")
    # Two minutes ago and one minute ago, each a stretch of two points, and now: at first a dash.
    expect(line).to_have_attribute("d", re.compile(r"^(M[\d. ]+L[\d. ]+){2}M[\d. ]+(h-3|(L[\d. ]+)+)$"))


def test_the_last_hour_is_there_when_the_page_is_opened(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    kept = json.loads(digits.text("/status/history"))
    was = {"queue": 7, "workers": 1, "pictures_per_s": 42.0, "errors_per_s": 0.5, "latency_ms": 8.0}
    known = {"models": {"digits": was}, "redis_bytes": 2**21, "p50_ms": 9.0, "p95_ms": 90.0}
    kept["samples"] = [{"at": kept["time"] - ago, **known} for ago in range(3600, 300, -10)]
    page.route("**/status/history", lambda route: route.fulfill(json=kept))
    page.goto(digits.url + "/status")
    drawn = page.locator("[data-model=digits] .plot", has_text="Throughput")
    expect(drawn.locator(".hint")).to_have_text("at most 42/s")
    service = page.locator("#service .plot")
    expect(service).to_have_count(5)
    labels = [
        "Errors: now 0.5/s",
        "Requests, p50: now 9 ms",
        "Requests, p95: now 90 ms",
        "Ready workers: now 1",
        "Redis memory: now 2 MB",
    ]
    for plot, label in zip(service.all(), labels, strict=True):
        expect(plot.locator("svg")).to_have_attribute("aria-label", re.compile(f"^{label},"))
    assert (drawn.locator("path.line").get_attribute("d") or "").count("L") >= 300


def test_the_points_of_a_model_that_is_gone_are_forgotten(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    page.add_init_script("""sessionStorage.setItem('batchwire.status', '{"points": {"gone": []}}')""")
    page.goto(digits.url + "/status")
    expect(page.locator("[data-model=digits]")).to_be_visible()
    kept = page.evaluate("Object.keys(JSON.parse(sessionStorage.getItem('batchwire.status')).points)")
    assert "digits" in kept
    assert "gone" not in kept


def test_a_model_that_is_gone_leaves_the_page(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    said = json.loads(digits.text("/models"))
    page.route("**/models", lambda route: route.fulfill(json=said))
    page.goto(digits.url + "/status")
    expect(page.locator("[data-model]")).to_have_count(2)
    said["models"] = [model for model in said["models"] if model["model"] == "digits"]
    expect(page.locator("[data-model]")).to_have_count(1)
    expect(page.locator("[data-model=digits]")).to_be_visible()


def test_a_failed_model_has_its_reason(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url + "/status")
    failed = page.locator("[data-model=resnet50]")
    expect(failed.locator(".badge")).to_have_text("failed")
    expect(failed.locator(".problem")).to_be_visible()
    expect(failed.locator(".problem")).to_contain_text("RESNET50_WEIGHTS=random")
    expect(failed.locator(".hint").first).to_contain_text("the default model")
    expect(page.locator("[data-model=digits] .problem")).to_be_hidden()


def test_workers_are_counted_by_what_they_do(visit: Visit, digits: Stack) -> None:
    page = visit("about:blank")
    said = json.loads(digits.text("/models"))
    page.route("**/models", lambda route: route.fulfill(json=said))
    page.goto(digits.url + "/status")
    workers = page.locator(".totals div", has_text="Workers ready").locator("dd")
    expect(workers).to_have_text(["1", "1 failed"])
    (worker,) = next(model["workers"] for model in said["models"] if model["model"] == "digits")
    said["models"][0]["workers"] = [
        {**worker, "id": f"{number}", "state": state}
        for number, state in enumerate(("ready", "loading", "ready", "draining", "ready", "loading"))
    ]
    said["models"][1]["workers"] = []
    expect(workers).to_have_text(["3", "2 loading", "1 stopping"])


@pytest.mark.parametrize(("width", "is_beneath"), [(390, True), (1280, False)])
def test_no_column_of_the_workers_is_cut_off(
    visit: Visit, digits: Stack, width: int, *, is_beneath: bool
) -> None:
    page = visit(digits.url + "/status", width=width)
    table = page.locator("[data-model=digits] table")
    expect(table.locator("tbody td")).to_have_count(7)
    titles = [
        "getComputedStyle(cell, '::before').content.replaceAll('\"', '')",
        "cell.getBoundingClientRect().right <= innerWidth",
    ]
    shown = table.locator("tbody td").evaluate_all(f"cells => cells.map(cell => [{', '.join(titles)}])")
    named = ["Worker", "State", "Heartbeat", "Pictures", "Rate while busy", "Time per batch", "Version"]
    assert shown == [[name if is_beneath else "none", True] for name in named]
    assert table.locator("xpath=..").evaluate("scroller => scroller.scrollWidth <= scroller.clientWidth")
    expect(page.get_by_role("table", name="Workers of digits").get_by_role("cell")).to_have_count(7)


def test_without_scripts_it_leads_to_the_figures(visit: Visit, digits: Stack) -> None:
    page = visit(digits.url + "/status", java_script_enabled=False)
    expect(page.locator("noscript .problem")).to_contain_text("This page needs scripts")
    expect(page.get_by_text("The plots show")).to_be_hidden()
    page.locator("noscript a").click()
    expect(page.locator("body")).to_contain_text('"default_answered_by"')


@pytest.mark.refusals
def test_without_redis_and_without_the_service(visit: Visit, stack: Stack, own_redis: RedisServer) -> None:
    stack.start_model_server()
    page = visit(stack.url + "/status")
    expect(page.locator(".badge")).to_have_text("ready")
    own_redis.stop(kill=True)
    problem = page.locator("#problem")
    expect(problem).to_contain_text("The service can't reach its queue.")
    expect(problem).to_be_visible()
    stack.stop()
    expect(problem).to_contain_text("The service can't be reached.")
