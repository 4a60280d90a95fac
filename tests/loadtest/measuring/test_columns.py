"""Counting: rates, warm-up, percentiles, errors, stages, models."""

import pytest

from loadtest.measuring.columns import Columns
from loadtest.measuring.figures import ALL, LEAVING, REST, Errors
from loadtest.sending.messages import INTERRUPTED, OK, Load
from tests.loadtest.by_hand import CLIENTS, POISSON, RATE, START, add, done, figures, steady


def test_percentiles_are_of_right_answers_from_when_they_were_due() -> None:
    columns = Columns(RATE, START)
    for number in range(1, 1001):
        add(columns, number / 100, number / 1000, waited=0.0005)
    add(columns, 5.0, 60.0, "timeout")
    add(columns, 5.0, 70.0, INTERRUPTED)
    found = figures(columns).latency_ms
    expected = {"mean": 500.5, "p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999, "max": 1000}
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


def test_figures_of_nothing() -> None:
    found = figures(Columns(RATE, START))
    assert (found.requests, found.right, found.failed, found.seconds, found.per_s) == (0, 0, 0, 0, None)
    assert set(found.latency_ms.values()) == {None}
    assert (found.stages_ms, found.histogram, found.over_time, found.errors) == ({}, [], [], {})
    unheard = Columns(RATE, START).figures([], warmup_s=0.5)
    assert (unheard.seconds, unheard.client.processes, unheard.client.busy) == (0, 0, 0)
    assert unheard.client.lag_ms == [0, 0, 0]


def test_figures_without_a_right_answer() -> None:
    columns = Columns(RATE, START)
    add(columns, 0, 2.0, "timeout")
    found = figures(columns)
    assert (found.requests, found.right, found.failed, found.per_s) == (1, 0, 1, 0)
    assert (found.latency_ms["p50"], found.stages_ms, found.histogram) == (None, {}, [])


def test_errors_are_counted_by_kind_with_the_first_message() -> None:
    columns = Columns(RATE, START)
    for number, kind in enumerate(["timeout", "http 500", "timeout", INTERRUPTED, OK]):
        add(columns, number, 0.1, kind, message=f"message {number}")
    found = figures(columns)
    assert found.errors == {"timeout": Errors(2, "message 0"), "http 500": Errors(1, "message 1")}
    assert (found.requests, found.right, found.failed, found.interrupted) == (5, 1, 3, 1)
    assert columns.failed == 4


@pytest.mark.parametrize(
    ("outcomes", "alike"),
    [
        ([], None),
        (["http 404"], ("http 404", "message 0")),
        (["http 404"] * 3, ("http 404", "message 0")),
        (["http 404", "timeout"], None),
        (["http 404", OK], None),
        ([OK], None),
    ],
)
def test_whether_all_failed_in_one_way(outcomes: list[str], alike: tuple[str, str] | None) -> None:
    columns = Columns(RATE, START)
    for number, outcome in enumerate(outcomes):
        add(columns, number, 0.1, outcome, message=f"message {number}")
    assert columns.failed_alike() == alike


def test_the_last_request_of_a_fixed_rate_has_its_time_too() -> None:
    found = figures(steady(RATE, 1.0, latency=0.001))
    assert (found.seconds, found.per_s, found.requests) == (1.0, 100, 100)


@pytest.mark.parametrize("load", [POISSON, CLIENTS])
def test_from_a_standing_start_the_rate_is_up_to_the_last_answer(load: Load) -> None:
    found = figures(steady(load, 1.0, latency=1.01))
    assert [found.seconds, found.per_s] == pytest.approx([2.0, 50])


def test_slow_answers_of_a_fixed_rate_lengthen_it() -> None:
    found = figures(steady(RATE, 1.0, latency=1.01))
    assert [found.seconds, found.per_s] == pytest.approx([2.0, 50])


@pytest.mark.parametrize("load", [RATE, POISSON, CLIENTS])
@pytest.mark.parametrize("latency", [0.001, 0.5, 1.5])
def test_after_a_warm_up_the_rate_is_of_what_ended_until_the_last_was_begun(
    load: Load, latency: float
) -> None:
    found = figures(steady(load, 5.0, latency), 5.0, warmup_s=2.0)
    assert (found.seconds, found.requests, found.right) == (3.0, 300, 300)
    assert found.per_s == pytest.approx(100, abs=0.4)
    assert found.latency_ms["mean"] == pytest.approx(latency * 1000)


def test_the_warm_up_is_not_measured_but_its_failures_are_told() -> None:
    columns = Columns(RATE, START)
    for due, outcome in ((0.5, OK), (0.6, "timeout"), (0.7, INTERRUPTED), (0.8, "timeout"), (1.0, OK)):
        add(columns, due, 9.0 if due < 1 else 0.1, outcome)
    add(columns, 1.0, 0.1, "http 500")
    add(columns, 1.9, 0.05, INTERRUPTED)
    found = figures(columns, 2.0, warmup_s=1.0)
    assert (found.requests, found.right, found.failed, found.interrupted) == (3, 1, 1, 1)
    assert (found.warmup_requests, found.warmup_failed) == (4, 2)
    assert found.latency_ms["max"] == pytest.approx(100)
    assert set(found.errors) == {"http 500"}
    latencies, failed = columns.latencies_s(1.0)
    assert (latencies.tolist(), failed) == ([pytest.approx(0.1)], 2)


def test_a_point_that_settled_is_measured_from_there_on() -> None:
    found = steady(RATE, 4.0).figures([done(4.0)], warmup_s=1.0, begin=3.0, stable=True)
    assert (found.requests, found.warmup_requests, found.seconds, found.stable) == (100, 300, 1.0, True)


def test_stopped_within_the_warm_up_there_is_no_rate() -> None:
    found = figures(steady(RATE, 0.5), 0.5, warmup_s=1.0)
    assert (found.requests, found.warmup_requests, found.seconds, found.per_s) == (0, 50, 0, None)


def test_stages_add_up_to_the_mean() -> None:
    columns = Columns(RATE, START)
    add(columns, 0.0, 0.050, waited=0.004, stages_ms={"model": 20.0})
    add(columns, 0.1, 0.030, waited=0.0, stages_ms={"queue": 6.0, "model": 10.0})
    add(columns, 0.2, 0.010, stages_ms={})
    add(columns, 0.3, 9.0, "timeout", stages_ms={"model": 1e6})
    found = figures(columns)
    assert list(found.stages_ms) == [LEAVING, "model", "queue", REST]
    assert found.stages_ms == pytest.approx({LEAVING: 4 / 3, "model": 10, "queue": 2, REST: 50 / 3})
    assert sum(found.stages_ms.values()) == pytest.approx(found.latency_ms["mean"])


def test_stages_that_overlap_leave_no_negative_rest() -> None:
    columns = Columns(RATE, START)
    add(columns, 0.0, 0.010, stages_ms={"a": 16.0})
    assert figures(columns).stages_ms == pytest.approx({LEAVING: 0, "a": 16, REST: 0})


def test_a_stage_belongs_to_its_request() -> None:
    columns = Columns(RATE, START)
    for stages, outcome in (({"a": 1.0}, OK), ({}, "timeout"), ({"b": 4.0}, OK), ({"c": 9.0}, "timeout")):
        add(columns, 0.0, 0.010, outcome, stages_ms=stages)
    found = figures(columns).stages_ms
    assert found == pytest.approx({LEAVING: 0, "a": 0.5, "b": 2.0, "c": 0, REST: 7.5})


def test_without_stages_the_rest_is_all_of_the_server() -> None:
    columns = Columns(RATE, START)
    add(columns, 0.0, 0.010, waited=0.002)
    add(columns, 0.0, 0.010, "timeout", sent=None)
    assert figures(columns).stages_ms == pytest.approx({LEAVING: 2, ALL: 8})


def test_batch_sizes_of_right_answers_in_order() -> None:
    columns = Columns(RATE, START)
    for size, outcome in ((4, OK), (1, OK), (4, OK), (0, OK), (8, "wrong label")):
        add(columns, 0.0, outcome=outcome, batch_size=size)
    assert list(figures(columns).batch_sizes.items()) == [(1, 1), (4, 2)]


def test_models_are_told_apart_where_there_are_several() -> None:
    columns = Columns(RATE, START)
    add(columns, 0.5, 7.0, model="a")  # warm-up
    add(columns, 1.0, 0.1, model="a")
    add(columns, 1.0, 9.0, "timeout", model="b")
    for number in range(1, 101):
        add(columns, 1.0, number / 100, model="b")
    found = figures(columns, 2.0, warmup_s=1.0).models
    assert {name: (each.requests, each.right) for name, each in found.items()} == {
        "a": (1, 1),
        "b": (101, 100),
    }
    assert [found["b"].p50_ms, found["b"].p99_ms] == pytest.approx([500, 990])
    assert figures(steady(RATE, 1.0)).models == {}


def test_the_busiest_and_latest_client_process_counts() -> None:
    told = [
        done(1.0, cpu_s=0.2, lag=0.5, queued=3),
        done(1.0, cpu_s=0.9, wall_s=1.5, queued=4),
        done(1.0, cpu_s=0.0, wall_s=0.0),
    ]
    client = steady(RATE, 1.0).figures(told, warmup_s=0.0).client
    assert (client.processes, client.queued) == (3, 7)
    assert client.busy == pytest.approx(0.6)
    assert client.cpu_ms_per_request == pytest.approx(11)
    assert client.lag_ms == [0.5, 1.0, 5.0]
    assert Columns(RATE, START).figures(told, warmup_s=0.0).client.cpu_ms_per_request is None
