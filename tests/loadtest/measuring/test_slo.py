"""Objectives: nearest-rank percentiles, what is missed, and budgets."""

import argparse
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measuring.slo import Slo, nearest_rank, parse, percentile_name


@pytest.mark.parametrize(
    ("number", "p50", "p95", "p99", "p999"),
    [
        (1, 1, 1, 1, 1),
        (2, 1, 2, 2, 2),
        (20, 10, 19, 20, 20),
        (101, 51, 96, 100, 101),
        (1000, 500, 950, 990, 999),
        (1001, 501, 951, 991, 1000),
        (10_000, 5000, 9500, 9900, 9990),
    ],
)
def test_percentiles_are_nearest_rank(number: int, p50: int, p95: int, p99: int, p999: int) -> None:
    ordered = [float(n) for n in range(1, number + 1)]
    assert [nearest_rank(ordered, p) for p in (50, 95, 99, 99.9, 100)] == [p50, p95, p99, p999, number]


def test_the_percentile_of_nothing_is_none() -> None:
    assert nearest_rank([], 50) is None
    assert nearest_rank(np.empty(0), 50) is None


@pytest.mark.parametrize(("percent", "number", "rank"), [(71.9, 83_000, 59_677), (39.2, 10_750, 4214)])
def test_floating_point_does_not_move_a_rank(percent: float, number: int, rank: int) -> None:
    assert math.ceil(percent * number / 100) == rank + 1  # what would be wrong
    assert nearest_rank(np.arange(1.0, number + 1), percent) == rank
    assert Slo({percent: 1.0}).allowed_late(number) == (1.0, number - rank)


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 1000))
def test_a_percentile_is_the_least_that_enough_do_not_exceed(values: list[int], permille: int) -> None:
    ordered = sorted(map(float, values))
    found = nearest_rank(ordered, permille / 10)
    assert found in ordered
    assert sum(value <= found for value in values) * 1000 >= permille * len(values)
    assert sum(value < found for value in values) * 1000 < permille * len(values)


@pytest.mark.parametrize(
    ("text", "latencies_s", "errors"),
    [
        ("p99=200ms", {99: 0.2}, 0),
        ("p99.9=1s", {99.9: 1}, 0),
        ("p5=1s", {5: 1}, 0),
        ("p0.5=1s", {0.5: 1}, 0),
        ("max=1s", {100: 1}, 0),
        ("errors=0.1%", {}, 0.001),
        ("p50=50ms, p99=200ms,max=2s,errors=1%", {50: 0.05, 99: 0.2, 100: 2}, 0.01),
    ],
)
def test_notation(text: str, latencies_s: dict[float, float], errors: float) -> None:
    slo = parse(text)
    assert slo.latencies_s == pytest.approx(latencies_s)
    assert slo.errors == pytest.approx(errors)
    assert slo.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p0=1s",
        "p0.0=1s",
        "p100=1s",
        "p99=",
        "p99=x",
        "p99=200ms,",
        "mean=1s",
        "errors=2",
        "99=1s",
        "P99=1s",
    ],
)
def test_what_is_no_objective(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


@pytest.mark.parametrize("text", ["p99=200", "max=2", "p50=50ms,p99=200", "p99="])
def test_a_latency_needs_its_unit(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="needs its unit: write 200ms or 2s, not"):
        parse(text)


@pytest.mark.parametrize(("percent", "name"), [(99, "p99"), (99.9, "p99.9"), (50.0, "p50"), (100, "max")])
def test_percentile_name(percent: float, name: str) -> None:
    assert percentile_name(percent) == name


def test_no_request_may_fail_by_default() -> None:
    assert Slo({99: 1.0}).misses(np.zeros(999), 1) != []


def latencies(right: int, slow: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """`right` latencies of 100 ms, of which `slow` take 300 ms; the slow ones first."""
    return np.array([0.3] * slow + [0.1] * (right - slow))


@pytest.mark.parametrize(
    ("objective", "right", "slow", "failed", "misses"),
    [
        ("p99=200ms", 1000, 10, 0, []),
        ("p99=200ms", 1000, 11, 0, ["p99 is 300 ms, not 200 ms"]),
        ("p99.9=200ms", 1000, 1, 0, []),
        ("p99.9=200ms", 1000, 2, 0, ["p99.9 is 300 ms, not 200 ms"]),
        ("max=200ms", 1000, 1, 0, ["max is 300 ms, not 200 ms"]),
        ("max=300ms", 1000, 1, 0, []),
        ("p50=50ms,p99=200ms", 10, 1, 0, ["p50 is 100 ms, not 50.0 ms", "p99 is 300 ms, not 200 ms"]),
        ("p99=1s", 0, 0, 0, ["nothing was measured"]),
        ("p99=1s", 999, 0, 1, ["1 of 1000 requests failed; errors may be 0% at most"]),
        ("p99=1s,errors=0.1%", 999, 0, 1, []),
        ("p99=1s,errors=0.1%", 998, 0, 2, ["2 of 1000 requests failed; errors may be 0.1% at most"]),
        ("errors=50%", 1, 1, 1, []),
        ("p99=1s,errors=100%", 0, 0, 3, ["p99 is unknown, not 1 s"]),
        ("errors=100%", 0, 0, 3, []),
        # What fails within its budget does not count against the percentiles, nor does it help them.
        ("p90=200ms,errors=50%", 10, 1, 9, []),
        ("p90=200ms,errors=50%", 10, 2, 9, ["p90 is 300 ms, not 200 ms"]),
    ],
)
def test_misses(objective: str, right: int, slow: int, failed: int, misses: list[str]) -> None:
    assert parse(objective).misses(latencies(right, slow), failed) == misses


def test_a_budget_may_be_used_up_but_not_exceeded() -> None:
    for permille in range(101):
        slo = parse(f"errors={permille / 10}%")  # 0.7 / 100 is less than 7 / 1000
        assert slo.misses(latencies(1000 - permille, 0), permille) == []
        assert slo.misses(latencies(999 - permille, 0), permille + 1) != []


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("p99=200ms", (0.2, 10)),
        ("max=1s", (1.0, 0)),
        ("p50=50ms,p99=200ms", (0.05, 500)),
        ("p50=200ms,p99=200ms", (0.2, 10)),
        ("p99=200ms,p50=200ms", (0.2, 10)),
        ("errors=1%", (math.inf, 0)),
    ],
)
def test_how_many_may_be_late(objective: str, expected: tuple[float, int]) -> None:
    assert parse(objective).allowed_late(1000) == expected


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(st.integers(1, 300), st.floats(0.1, 99.9), st.data())
def test_one_more_than_may_be_late_is_a_miss(planned: int, percent: float, data: st.DataObject) -> None:
    slo = Slo({percent: 0.2}, errors=data.draw(st.sampled_from([0.0, 0.01, 0.3])))
    _, allowed = slo.allowed_late(planned)
    assert slo.misses(latencies(planned, allowed), 0) == []
    failed = data.draw(st.integers(0, math.ceil(slo.errors * planned)))
    slow = allowed + math.ceil(slo.errors * planned) + 1 - failed
    if slow <= planned - failed:
        assert slo.misses(latencies(planned - failed, slow), failed) != []
