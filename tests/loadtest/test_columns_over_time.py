"""Columns in time: windows, slices, what is late; and the histogram."""

from itertools import product, takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measuring.columns import Columns
from loadtest.sending.arrivals import due_times
from loadtest.sending.messages import INTERRUPTED, OK, Load
from tests.loadtest.by_hand import CLIENTS, POISSON, RATE, START, add, figures, steady


def test_a_window_counts_answers_that_ended_and_requests_that_were_due_in_it() -> None:
    columns = Columns(RATE, START)
    for due, latency, outcome in (
        (0.5, 0.7, OK),  # ends in it
        (1.0, 0.3, OK),  # due in it, and ends in it
        (1.9, 0.2, OK),  # due in it
        (1.5, 0.1, "timeout"),
        (1.6, 0.1, INTERRUPTED),
        (2.0, 0.1, OK),
        (2.0, 0.1, "timeout"),
        (0.9, 0.3, "timeout"),
        (0.7, 0.3, OK),  # ends at its begin
        (1.0, 1.0, OK),  # ends at its end
        (1.0, 0.1, "timeout"),
    ):
        add(columns, due, latency, outcome)
    rate, latencies, failed = columns.window(1.0, 2.0)
    assert (rate, failed) == (3, 2)
    assert sorted(latencies) == pytest.approx([0.2, 0.3, 1.0])
    assert columns.window(1.0, 1.25)[0] == 2 / 0.25


def test_windows_see_what_was_added_since_the_last_look() -> None:
    columns = steady(RATE, 1.0)
    assert columns.window(0.0, 2.0)[0] == 50
    add(columns, 1.0)
    assert columns.window(0.0, 2.0)[0] == 50.5


def test_windows_of_an_even_rate_are_even() -> None:
    columns = steady(RATE, 5.0)
    assert [len(columns.window(second, second + 1)[1]) for second in range(5)] == [100] * 5


@pytest.mark.parametrize(
    ("seconds", "width"),
    [
        (3, 0.5),
        (60, 0.5),
        (60.4, 1),
        (130, 2),
        (600, 5),
        (601, 10),
        (3600, 30),
        (7200, 60),
        (36000, 300),
        (1e6, 3600),
    ],
)
def test_about_a_hundred_slices_of_a_width_that_can_be_read(seconds: float, width: float) -> None:
    columns = Columns(CLIENTS, START)
    add(columns, 0.0, seconds)
    found = figures(columns, seconds).over_time
    assert [each.at_s for each in found] == [(number + 0.5) * width for number in range(int(seconds / width))]


def test_a_slice_holds_rate_and_percentiles() -> None:
    columns = steady(RATE, 1.0, 0.001)
    for number in range(1, 101):
        add(columns, 1.5, number / 1000)
    found = figures(columns).over_time
    assert [each.per_s for each in found] == [100, 100, 0, 200]
    assert [each.p50_ms for each in found] == pytest.approx([1, 1, None, 50])
    assert [each.p99_ms for each in found] == pytest.approx([1, 1, None, 99])


def test_slices_show_the_warm_up_and_where_requests_failed() -> None:
    columns = steady(RATE, 1.0, 0.001)
    add(columns, 0.7, 0.2, "timeout")
    columns.queue = [(START + 0.5, 3)]
    found = figures(columns, 1.0, warmup_s=0.5)
    assert [each.failed for each in found.over_time] == [0, 1]
    assert [each.p99_ms for each in found.over_time] == pytest.approx([1.0, 1.0])
    assert found.queue == [(0.5, 3)]


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(0.000001, 100), min_size=1, max_size=50))
def test_the_histogram_holds_every_right_answer_once(latencies: list[float]) -> None:
    columns = Columns(CLIENTS, START)
    for latency in latencies:
        add(columns, 0.0, latency)
    add(columns, 0.0, 1000.0, "timeout")
    found = figures(columns).histogram
    assert sum(each.count for each in found) == len(latencies)
    assert [each.to_ms for each in found[:-1]] == [each.from_ms for each in found[1:]]
    assert all(each.to_ms / each.from_ms < 10**0.0501 for each in found)
    assert all(each.to_ms / each.from_ms > 10**0.0499 for each in found[1:-1])
    assert found[0].from_ms <= np.round(min(latencies), 9) * 1000 * (1 + 1e-9)
    assert found[0].count
    assert found[-1].count


LIMIT_S = 0.2


@pytest.mark.parametrize("rate", [3, 20, 100, 333])
@pytest.mark.parametrize("begin", [0.0, 0.1, 0.333, 0.5, 1.0])
def test_what_is_on_time_is_never_late(rate: int, begin: float) -> None:
    """Records are reported up to half a second after their end, so those may be missing yet."""
    load = Load(rate, is_open=True)
    for elapsed, reported_s in product((0.0, 0.7, 1.0, 1.7, 2.2, 2.7, 3.0), (0.0, 0.25, 0.5)):
        columns = Columns(load, START)
        for number in range(rate * 3):
            if number / rate + LIMIT_S <= elapsed - reported_s:
                add(columns, number / rate, LIMIT_S - 1e-6)
        assert columns.late(LIMIT_S, begin, elapsed) == 0


def test_late_are_slow_and_failed_ones_from_the_begin_on() -> None:
    columns = Columns(RATE, START)
    for due, latency, outcome in (
        (0.5, 0.3, OK),  # warm-up
        (1.0, 0.3, OK),
        (1.0, 0.25, OK),
        (1.2, 0.1, "timeout"),
        (1.3, 0.1, INTERRUPTED),
        (1.4, 0.1, OK),
    ):
        add(columns, due, latency, outcome)
    assert columns.late(0.25, 1.0, 1.5) == 3
    assert columns.late(0.25, 0.0, 0.5) == 4


@pytest.mark.parametrize(("elapsed", "late"), [(1.7, 0), (2.0, 30), (2.7, 100)])
def test_what_is_not_heard_of_is_overdue(elapsed: float, late: int) -> None:
    columns = steady(RATE, 1.0, LIMIT_S / 2)  # nothing of what is due from second 1 on
    assert abs(columns.late(LIMIT_S, 0.0, elapsed) - late) <= 1
    assert abs(columns.late(LIMIT_S, 0.5, elapsed) - late) <= 1


def test_a_slow_answer_is_counted_once() -> None:
    columns = steady(RATE, 1.0, 0.5)
    assert columns.late(LIMIT_S, 0.0, 1.7) == 100


def test_without_a_limit_of_latency_only_failures_are_late() -> None:
    columns = steady(RATE, 1.0, 5.0)
    add(columns, 0.5, 0.1, "timeout")
    assert columns.late(float("inf"), 0.0, 100.0) == 1


def test_few_poisson_arrivals_are_not_taken_for_late_ones() -> None:
    end = 10.0
    for seed in range(20):
        columns = Columns(POISSON, START)
        for due in takewhile(lambda due: due < end - LIMIT_S, due_times(POISSON, seed)):
            add(columns, due, LIMIT_S / 2)
        assert columns.late(LIMIT_S, 0.0, end) == 0
        assert columns.late(LIMIT_S, 0.0, end + 5) > 150
