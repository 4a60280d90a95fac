"""Medians, ratios and the order of rounds."""

from dataclasses import replace

from benchmarks.serving import figures
from benchmarks.serving.figures import FiguresRow, Ratio
from benchmarks.serving.load import Point


def point(per_s: float, *, failed: int = 0, **cpu_ms: float) -> Point:
    return Point(per_s, p50_ms=1000 / per_s, p99_ms=2000 / per_s, requests=10, failed=failed, cpu_ms=cpu_ms)


def row(name: str, per_s: float, *, decode: str = "full", is_peer: bool = False) -> FiguresRow:
    return FiguresRow(name, decode, is_peer, {32: point(per_s)})


def test_a_median_is_of_each_figure_and_failures_add_up() -> None:
    rounds = [point(10, failed=1, web=3, redis=1), point(30, web=9, redis=2), point(20, failed=2, web=4)]
    found = figures.median(rounds)
    assert (found.per_s, found.p50_ms, found.requests, found.failed) == (20, 50, 30, 3)
    assert found.cpu_ms == {"web": 4}


def test_a_round_that_others_spoiled_is_left_out_where_there_is_a_quiet_one() -> None:
    quiet, loud = point(50), replace(point(10), others=1.5, failed=3)
    found = figures.median([loud, quiet, loud])
    assert (found.per_s, found.failed, found.others) == (50, 6, 0)
    least = replace(point(30), others=0.5)
    assert figures.median([loud, least]).per_s == 30


def test_the_limit_is_that_of_the_same_decode() -> None:
    limits = [row("limit", 100), row("limit, draft", 200, decode="draft")]
    assert figures.to_limit(row("ours", 90), limits, 32) == Ratio(0.9, is_disturbed=False)
    assert figures.to_limit(row("ours", 90, decode="draft"), limits, 32) == Ratio(0.45, is_disturbed=False)
    assert figures.to_limit(row("ours", 90), [], 32) is None
    assert figures.to_limit(row("ours", 90), limits, 8) is None


def test_the_best_other_is_a_peer_and_not_itself() -> None:
    rows = [row("ours", 90), row("old", 500), row("a", 60, is_peer=True), row("b", 45, is_peer=True)]
    assert figures.to_best_other(rows[0], rows, 32) == Ratio(1.5, is_disturbed=False)
    assert figures.to_best_other(rows[2], rows, 32) == Ratio(60 / 45, is_disturbed=False)
    assert figures.to_best_other(rows[0], rows[:2], 32) is None


def test_a_ratio_to_what_others_spoiled_says_so() -> None:
    spoiled = FiguresRow("limit", "full", False, {32: replace(point(100), others=1.0)})
    assert figures.to_limit(row("ours", 90), [spoiled], 32) == Ratio(0.9, is_disturbed=True)


def test_every_round_begins_with_another() -> None:
    assert [figures.in_turn("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert figures.in_turn([], 1) == []
