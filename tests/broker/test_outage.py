"""How often an outage of Redis is told, by however many threads."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.outage import AGAIN_S, Outage

AWAY = "Redis can't be reached."


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outage(clock: Clock) -> Outage:
    return Outage(monotonic=clock)


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    """Another thread that lives."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


def test_it_is_told_when_it_begins_now_and_then_and_when_it_ends(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(125):  # 25 seconds
        outage.failed(AWAY)
        clock.now += 0.2
    outage.succeeded()
    outage.succeeded()
    assert _said(caplog) == [
        f"{AWAY} Trying again.",
        f"{AWAY} Trying again, for 10 s now.",
        f"{AWAY} Trying again, for 20 s now.",
        "Redis is back, after 25.0 s.",
    ]


def test_the_next_one_is_told_anew(outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        outage.failed(AWAY)
        clock.now += 1
        outage.succeeded()
    assert _said(caplog) == [f"{AWAY} Trying again.", "Redis is back, after 1.0 s."] * 2


def test_all_threads_tell_of_it_once_and_it_ends_with_the_last(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture, other: ThreadPoolExecutor
) -> None:
    outage.failed(AWAY)
    other.submit(outage.failed, AWAY).result()
    clock.now += 1
    outage.succeeded()  # where only writes are refused, who reads succeeds
    outage.succeeded()
    other.submit(outage.failed, AWAY).result()
    outage.failed(AWAY)
    assert _said(caplog) == [f"{AWAY} Trying again."]
    clock.now += 1
    outage.succeeded()
    other.submit(outage.succeeded).result()
    assert _said(caplog)[1:] == ["Redis is back, after 2.0 s."]


def test_a_thread_that_has_ended_keeps_nobody_waiting(
    outage: Outage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(outage.failed, AWAY).result()
    clock.now += AGAIN_S / 2
    outage.succeeded()
    assert _said(caplog)[-1] == "Redis is back, after 5.0 s."


def test_who_never_failed_says_nothing(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.succeeded()
    assert _said(caplog) == []
