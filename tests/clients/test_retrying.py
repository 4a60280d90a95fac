"""Which failures are tried again, and when."""

import pytest

from clients.errors import BatchwireError, ConnectionFailure, class_for
from clients.retrying import Retrying, may_pass

CALM = Retrying(total_s=60, first_s=1, most_s=8, jitter=lambda: 0.0)


def refused(status: int, code: str = "x", retry_after_s: float | None = None) -> BatchwireError:
    return class_for(status)(code, "Why.", status=status, retry_after_s=retry_after_s)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_what_the_service_can_not_take_now_may_pass(status: int) -> None:
    assert may_pass(refused(status))


@pytest.mark.parametrize("status", [400, 404, 405, 408, 413, 415, 431, 500, 501, 504])
def test_nothing_else_does_whatever_it_says_of_retrying(status: int) -> None:
    assert CALM.pause_s(refused(status, retry_after_s=1), attempt=0, elapsed_s=0) is None


def test_a_model_that_only_its_operator_can_repair_is_not_waited_for() -> None:
    assert not may_pass(refused(503, "model_unavailable", retry_after_s=30))


def test_a_lost_connection_may_pass() -> None:
    assert may_pass(ConnectionFailure("connection_lost", "Why."))


def test_pauses_double_up_to_a_bound() -> None:
    pauses = [CALM.pause_s(refused(503), attempt=attempt, elapsed_s=0) for attempt in (0, 1, 2, 3, 4, 5000)]
    assert pauses == [0.5, 1, 2, 4, 4, 4]  # each halved, where jitter is 0


def test_retry_after_is_the_least() -> None:
    least = CALM.pause_s(refused(503, retry_after_s=20), attempt=0, elapsed_s=0)
    most = Retrying(jitter=lambda: 1.0).pause_s(refused(503, retry_after_s=20), attempt=0, elapsed_s=0)
    assert (least, most) == (20, 22.5)


def test_the_total_time_bounds_the_last_pause_too() -> None:
    failure = refused(503, retry_after_s=20)
    assert CALM.pause_s(failure, attempt=3, elapsed_s=40) == 20
    assert CALM.pause_s(failure, attempt=3, elapsed_s=40.1) is None
    assert CALM.pause_s(refused(503, retry_after_s=61), attempt=0, elapsed_s=0) is None


def test_with_no_time_nothing_is_tried_again() -> None:
    assert Retrying(total_s=0).pause_s(refused(503), attempt=0, elapsed_s=0) is None
