"""How often an outage of Redis is told, by however many threads."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker.errors import BrokerUnavailable
from broker.outage import AGAIN_S, Outage
from tests.support.fakes import FakeClock

AWAY = BrokerUnavailable("Redis can't be reached.")
REFUSED = BrokerUnavailable("Redis can't take it: it is full.", is_refusal=True)
TOLD = f"{AWAY.detail} Trying again."


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def outage(clock: FakeClock) -> Outage:
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
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(125):  # 25 seconds
        outage.failed(AWAY)
        clock.now += 0.2
    outage.succeeded()
    outage.succeeded()
    assert _said(caplog) == [
        TOLD,
        f"{AWAY.detail} Trying again, for 10 s now.",
        f"{AWAY.detail} Trying again, for 20 s now.",
        "Redis is back, after 25.0 s.",
    ]


def test_the_next_one_is_told_anew(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        outage.failed(AWAY)
        clock.now += 1
        outage.succeeded()
        clock.now += AGAIN_S
    assert _said(caplog) == [TOLD, "Redis is back, after 1.0 s."] * 2


def test_one_that_comes_and_goes_is_one(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):  # 25 seconds
        outage.failed(AWAY)
        clock.now += 0.0625
        outage.succeeded()
        clock.now += 0.0625
    assert _said(caplog) == [
        TOLD,
        "Redis is back, after 0.1 s.",
        f"{AWAY.detail} Trying again, on and off for 10 s now.",
        "Redis is back, after 10.2 s on and off.",
        f"{AWAY.detail} Trying again, on and off for 20 s now.",
        "Redis is back, after 20.3 s on and off.",
    ]


def test_one_that_stays_after_it_came_and_went_is_told_in_time(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    outage.failed(AWAY)
    outage.succeeded()
    for _ in range(60):  # 12 seconds
        clock.now += 0.2
        outage.failed(AWAY)
    outage.succeeded()
    assert _said(caplog)[2:] == [
        f"{AWAY.detail} Trying again, on and off for 10 s now.",
        "Redis is back, after 12.0 s on and off.",
    ]


def test_what_is_refused_one_model_hides_no_outage_and_outlives_it(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture, other: ThreadPoolExecutor
) -> None:
    outage.failed(REFUSED, "broken")
    for _ in range(2):
        other.submit(outage.failed, AWAY, "sound").result()
        outage.failed(AWAY, "broken")
    clock.now += 1
    other.submit(outage.succeeded, "sound").result()
    outage.failed(REFUSED, "broken")  # so it was reached
    clock.now += 1
    other.submit(outage.failed, REFUSED, "sound").result()
    other.submit(outage.succeeded, "sound").result()
    outage.succeeded("broken")
    assert _said(caplog) == [
        f"broken: {REFUSED.detail} Trying again.",
        TOLD,
        "Redis is back, after 1.0 s.",
        f"sound: {REFUSED.detail} Trying again.",
        "sound: Redis takes it again, after 0.0 s.",
        "broken: Redis takes it again, after 2.0 s.",
    ]


def test_a_refusal_of_no_model_in_particular_is_none_of_a_model(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    outage.failed(REFUSED)
    outage.succeeded()
    assert _said(caplog) == [f"{REFUSED.detail} Trying again.", "Redis takes it again, after 0.0 s."]


def test_where_threads_stand_for_each_other_one_success_ends_it(
    outage: Outage, caplog: pytest.LogCaptureFixture, other: ThreadPoolExecutor
) -> None:
    outage.failed(REFUSED, "tiny", who="requests")
    other.submit(outage.succeeded, "tiny", who="requests").result()
    assert _said(caplog)[-1] == "tiny: Redis takes it again, after 0.0 s."


def test_all_threads_tell_of_it_once_and_it_ends_with_the_last(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture, other: ThreadPoolExecutor
) -> None:
    outage.failed(AWAY)
    other.submit(outage.failed, AWAY).result()
    clock.now += 1
    outage.succeeded()  # where one connection is cut, who has another succeeds
    outage.succeeded()
    other.submit(outage.failed, AWAY).result()
    outage.failed(AWAY)
    assert _said(caplog) == [TOLD]
    clock.now += 1
    outage.succeeded()
    other.submit(outage.succeeded).result()
    assert _said(caplog)[1:] == ["Redis is back, after 2.0 s."]


def test_a_thread_that_has_ended_keeps_nobody_waiting(
    outage: Outage, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(outage.failed, AWAY).result()
    clock.now += AGAIN_S / 2
    outage.succeeded()
    assert _said(caplog)[-1] == "Redis is back, after 5.0 s."


def test_who_never_failed_says_nothing(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.succeeded()
    assert _said(caplog) == []
