"""The verdict over two runs: what is worse, what is not, and what can't be told."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from loadtest.measuring.compare import CompareError, Comparison, compare, read, table
from loadtest.measuring.figures import Figures
from loadtest.measuring.regression import Change
from loadtest.sending.messages import Load
from tests.loadtest.reports import empty, latencies, point, report


def compared(before: Figures, after: Figures, tolerance: float = 0.1) -> Comparison:
    return compare(report(before), report(after), tolerance=tolerance)


def slower(name: str, factor: float) -> Figures:
    return point(latency_ms={**latencies(100.0), name: (latencies(100.0)[name] or 0.0) * factor})


def test_a_run_is_not_worse_than_itself() -> None:
    found = compared(point(), point(), tolerance=0.0)
    assert found.worse == []
    assert [change.ratio for change in found.points["8 clients"][:-1]] == [1.0] * 5


def test_every_figure_is_compared() -> None:
    found = compared(point(per_s=100.0, latency_ms=latencies(100.0)), slower("p95", 1.2)).points["8 clients"]
    assert found == [
        Change("answers/s", 100.0, 149.2, 0.1),
        Change("p50", 100.0, 100.0, 0.1),
        Change("p95", 175.0, 210.0, 0.1),
        Change("p99", 250.0, 250.0, 0.1),
        Change("mean", 110.00000000000001, 110.00000000000001, 0.1),
        Change("failed share", 0.0, 0.0, 0.1),
    ]


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("before", [0.7, 100.0, 333.3])
def test_throughput_may_fall_to_the_tolerance_and_no_further(before: float, tolerance: float) -> None:
    bound = before * (1 - tolerance)
    assert compared(point(per_s=before), point(per_s=bound), tolerance).worse == []
    assert compared(point(per_s=before), point(per_s=before * 2), tolerance).worse == []
    assert len(compared(point(per_s=before), point(per_s=bound * 0.9999), tolerance).worse) == 1


@pytest.mark.parametrize("name", ["p50", "p95", "p99"])
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 0.3])
def test_percentiles_may_rise_to_the_tolerance_and_no_further(name: str, tolerance: float) -> None:
    before = slower(name, 1.0)
    assert compared(before, slower(name, 1 + tolerance), tolerance).worse == []
    assert compared(before, slower(name, 0.5), tolerance).worse == []
    [worse] = compared(before, slower(name, (1 + tolerance) * 1.0001), tolerance).worse
    assert worse.startswith(f"8 clients: {name} was ")


def test_binary_fractions_do_not_move_the_bounds() -> None:
    assert 3.6 > 3.0 * 1.2
    assert not Change("p99", 3.0, 3.6, 0.2).is_worse
    assert 11.7 < 13.0 * (1 - 0.1)
    assert not Change("answers/s", 13.0, 11.7, 0.1).is_worse


def test_the_words_say_what_became_of_what() -> None:
    assert compared(slower("p99", 1.0), slower("p99", 1.5)).worse == [
        "8 clients: p99 was 250 ms, is 375 ms (+50.0%)"
    ]
    assert compared(point(per_s=100.0), point(per_s=80.0)).worse == [
        "8 clients: answers/s was 100, is 80.0 (-20.0%)"
    ]


def test_the_mean_is_shown_and_not_judged() -> None:
    assert compared(slower("mean", 1.0), slower("mean", 3.0)).worse == []


@pytest.mark.parametrize(
    ("before", "after", "is_worse"), [(0, 1, False), (0, 2, True), (9, 10, False), (9, 11, True)]
)
def test_one_of_a_thousand_more_may_fail(before: int, after: int, *, is_worse: bool) -> None:
    old, new = point(right=1000 - before, failed=before), point(right=1000 - after, failed=after)
    found = compared(old, new, tolerance=1.0)
    expected = [f"8 clients: failed share was {before / 1000:.2%}, is {after / 1000:.2%}"]
    assert [text.split(" (")[0] for text in found.worse] == expected * is_worse
    assert compared(new, old).worse == []


def test_interrupted_requests_neither_failed_nor_were_right() -> None:
    found = compared(point(), point(requests=2000, right=1000, failed=500, interrupted=500))
    assert found.points["8 clients"][-1].after == 500 / 1500


def test_no_answer_any_more_is_worse_and_none_yet_is_not() -> None:
    found = compared(point(), empty(name="8 clients", requests=9, failed=9, per_s=0.0))
    assert [text.split(": ")[1].split(" was")[0] for text in found.worse] == [
        "answers/s", "p50", "p95", "p99", "failed share",
    ]  # fmt: skip
    assert "8 clients: p50 was 52.0 ms, is none" in found.worse
    assert compared(empty(name="8 clients"), point()).worse == []


@pytest.mark.parametrize(("before", "after"), [(None, 1.0), (1.0, None), (0.0, 1.0), (None, None)])
def test_a_ratio_that_cannot_be_formed_is_none(before: float | None, after: float | None) -> None:
    assert Change("p50", before, after, 0.1).ratio is None


def test_loads_without_a_partner_are_named() -> None:
    found = compare(report(point(1), point(8)), report(point(8), point(32)), tolerance=0.1)
    assert (list(found.points), found.only_before, found.only_after) == (
        ["8 clients"],
        ["1 client"],
        ["32 clients"],
    )


def test_a_load_tried_twice_is_compared_with_its_like() -> None:
    load = Load(20.0, is_open=True)
    before = report(point(load=load, per_s=20.0), point(load=load, per_s=10.0))
    assert compare(before, before, tolerance=0.1).worse == []
    once = report(point(load=load, per_s=20.0))
    assert compare(before, once, tolerance=0.1).only_before == ["20/s (2)"]


def test_two_runs_without_a_common_load_are_refused() -> None:
    with pytest.raises(CompareError, match="no load in common: 1 client before, 8 clients, 32 clients after"):
        compare(report(point(1)), report(point(8), point(32)), tolerance=0.1)
    with pytest.raises(CompareError, match="none before, none after"):
        compare(report(), report(), tolerance=0.1)


def test_what_json_wrote_is_read(tmp_path: Path) -> None:
    written = report(point(1), empty(), slo="p99=200ms", warnings=["!"])
    path = tmp_path / "run.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(written)))
    assert read(path) == written


def changed(**changes: object) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(report(point())), **changes})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"format": "\xff"}', "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b"[]", "has no figures of a load test"),
        (b'{"p99_ms": 12}', "has no figures of a load test"),
        (changed(format="load test ledger 1"), "has no figures of a load test"),
        (changed(points=[{}]), "has no figures of a load test: .*name"),
        (changed(version=2), "has figures of version 2; version 1 is read"),
    ],
)
def test_a_file_that_json_did_not_write_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(CompareError, match=f"run.json {reason}"):
        read(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.json"):
        with pytest.raises(CompareError, match=rf"{path.name} can't be read: \w+"):
            read(path)


def test_the_table_shows_both_runs_and_marks_what_is_worse() -> None:
    before = report(point(1), point(8, per_s=100.0), point(9, name="[red]9"))
    after = report(point(8, per_s=50.0), point(9, name="[red]9"), point(32))
    console = Console(file=(file := io.StringIO()), width=90)
    console.print(table(compare(before, after, tolerance=0.1)))
    lines = [
        [cell.strip() for cell in line.split("│")] for line in file.getvalue().splitlines() if "│" in line
    ]
    assert ["", "8 clients", "answers/s", "100", "50.0", "-50.0%", "worse", ""] in lines
    assert ["", "", "p50", "52.0 ms", "52.0 ms", "+0.0%", "", ""] in lines
    assert [line[1:3] for line in lines if line[2].startswith("only")] == [
        ["1 client", "only before"],
        ["32 clients", "only after"],
    ]
    assert [line[1] for line in lines if line[1]] == ["8 clients", "[red]9", "1 client", "32 clients"]
