"""The text of the result: figures, failures, verdicts, and warnings of each kind."""

import io
import re
from collections import Counter
from typing import Literal

import pytest
from rich.console import Console

from loadtest.faults.ledger import Account
from loadtest.measuring.figures import LEAVING, Errors, FaultAccount, Figures, OfFault, OfModel, RunReport
from loadtest.output.tables import show, show_account
from loadtest.sending.messages import Load
from tests.loadtest.points import NONE, figures, quiet


def shown(*points: Figures, width: int = 200, colours: bool = False, **changes: object) -> str:
    report = RunReport(target="http://h", started_at="", command=[], pictures=8, points=list(points))
    for name, value in changes.items():
        setattr(report, name, value)
    system: Literal["standard"] | None = "standard" if colours else None
    console = Console(
        file=io.StringIO(), width=width, highlight=False, force_terminal=colours, color_system=system
    )
    show(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the rows whose first cell is this."""
    lines = (line.strip("│┃ ").replace("┃", "│") for line in text.splitlines())
    cells = [[" ".join(cell.split()) for cell in line.split("│")] for line in lines]
    return [row for row in cells if row[0] == first]


def test_a_point_is_a_row_of_figures() -> None:
    row = ["20/s", "19.7", "20.5", "35.5", "40.5", "71.5", "3", "3.25"]
    text = shown(figures())
    assert rows(text, "20/s")[0] == row
    titles = ["load", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "failed", "batch"]
    assert rows(text, "load") == [titles, ["load", "failed", "requests", "the first of them"]]


def test_a_point_without_answers() -> None:
    text = shown(quiet(per_s=None, latency_ms=NONE))
    assert rows(text, "20/s") == [["20/s", "-", "-", "-", "-", "-", "0", "-"]]
    assert len(text.splitlines()) == 5


def test_where_the_time_went_is_a_row_a_stage_and_a_column_a_load() -> None:
    other = figures(Load(9, is_open=True), stages_ms={LEAVING: 1.0, "model": 23.0})
    text = shown(figures(), other, quiet(Load(8, is_open=True)))
    assert rows(text, "where the time went") == [["where the time went", "20/s", "9/s"]]
    assert rows(text, LEAVING) == [[LEAVING, "0.500 ms 2%", "1.00 ms 4%"]]
    assert rows(text, "queue") == [["queue", "6.00 ms 25%", "0 ms 0%"]]
    assert rows(text, "model")[0] == ["model", "12.0 ms 50%", "23.0 ms 96%"]


def test_stages_are_not_shown_where_only_the_leaving_is_known() -> None:
    assert "where the time went" not in shown(figures(stages_ms={LEAVING: 0.5}))


def test_batch_sizes_by_powers_of_two() -> None:
    sizes = {1: 50, 2: 10, 3: 10, 4: 10, 7: 10, 16: 10}
    text = shown(figures(batch_sizes=sizes), figures(Load(9, is_open=True), batch_sizes={1: 7}))
    assert rows(text, "batch size") == [["batch size", "20/s", "9/s"]]
    expected = {"1": "50%", "2 to 3": "20%", "4 to 7": "20%", "8 to 15": "0%", "16 to 31": "10%"}
    for size, share in expected.items():
        assert rows(text, size) == [[size, share, "100%" if size == "1" else "0%"]]
    assert rows(text, "32 to 63") == []


def test_models() -> None:
    text = shown(figures())
    assert rows(text, "(default)") == [["(default)", "150", "148", "19.5", "39.5"]]
    assert rows(text, "digits") == [["digits", "50", "49", "29.5", "49.5"]]


def test_failures_are_shown_with_the_first_of_their_kind() -> None:
    assert rows(shown(figures()), "20/s")[-2:] == [
        ["20/s", "http 503 overloaded", "2", "full"],
        ["20/s", "timeout", "1", "no answer within 1 s"],
    ]


@pytest.mark.parametrize(("count", "detailed"), [(3, ["1/s", "2/s", "3/s"]), (4, ["4/s"])])
def test_of_many_points_only_the_last_is_shown_in_detail(count: int, detailed: list[str]) -> None:
    text = shown(*(figures(Load(rate, is_open=True)) for rate in range(1, count + 1)))
    assert rows(text, "where the time went") == [["where the time went", *detailed]]
    assert rows(text, "batch size") == [["batch size", *detailed]]
    assert len(rows(text, "digits")) == len(detailed)
    for rate in range(1, count + 1):  # its figures, its two kinds of failure, and the title of its models
        assert len(rows(text, f"{rate}/s")) == 3 + (f"{rate}/s" in detailed)


def test_markup_in_names_is_printed_as_it_is() -> None:
    name = "[red]x[/red] [/] [link=http://h]"
    models = {name: OfModel(1, 1, 1.0, 1.0)}
    point = figures(errors={name: Errors(1, name)}, models=models, stages_ms={LEAVING: 1.0, name: 2.0})
    text = shown(point, warnings=[f"warning {name}"], slo="p99=1s", conclusion=f"conclusion {name}")
    assert text.count(name) == 6
    point.name = name
    assert shown(point).count(f" {name} ") == 9
    assert f"20/s: {name} missed: {name}" in shown(quiet(misses=[name]), slo=name)


def test_warnings_and_verdicts_are_lines_however_narrow_the_terminal() -> None:
    long = "word " * 40 + "end"
    met, missed = quiet(), quiet(misses=["p99 is 2 s, not 1 s", long])
    lines = shown(met, missed, width=60, slo="p99=1s", warnings=[long]).splitlines()
    verdicts = ["20/s: p99=1s met", f"20/s: p99=1s missed: p99 is 2 s, not 1 s; {long}"]
    assert lines[-3:] == [f"! {long}", *verdicts]


def test_a_searchs_conclusion_takes_the_place_of_verdicts() -> None:
    text = shown(quiet(misses=["x"]), slo="p99=1s", conclusion="p99=1s is met up to 15/s")
    assert text.splitlines()[-1] == "p99=1s is met up to 15/s"
    assert "missed" not in text
    assert "missed" not in shown(quiet(misses=["x"]))
    long = "word " * 40 + "end"
    assert shown(quiet(), width=60, conclusion=long).splitlines()[-1] == long


def test_what_is_missed_is_red() -> None:
    for point, style in ((quiet(), "\x1b[32m"), (quiet(misses=["x"]), "\x1b[31m")):
        assert f"{style}20/s: p99=1s m" in shown(point, slo="p99=1s", colours=True)
    assert re.search("\x1b\\[31m *3\x1b", shown(figures(), colours=True))
    assert "\x1b[31m" not in shown(quiet(), colours=True)


def test_in_a_narrow_terminal_figures_are_left_out_and_not_their_digits() -> None:
    text = shown(figures(), width=60)
    assert rows(text, "20/s")[0] == ["20/s", "19.7", "20.5", "40.5", "3"]
    assert rows(text, "load")[0] == ["load", "answers/s", "p50 ms", "p99 ms", "failed"]


def test_a_load_that_was_given_up_is_marked() -> None:
    assert rows(shown(quiet(given_up="why")), "20/s (given up)")


def account(**changes: object) -> list[str]:
    found = Account(requests=5, outcomes=Counter({"ok": 4, "[red]": 1}))
    for name, value in changes.items():
        setattr(found, name, value)
    console = Console(file=io.StringIO(), width=60, highlight=False)
    show_account(console, "[bold]ledger", found)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_ledger_that_adds_up() -> None:
    lines = account()
    assert lines[0].strip() == "[bold]ledger"
    assert rows("\n".join(lines), "[red]") == [["[red]", "1"]]
    assert rows("\n".join(lines), "ok") == [["ok", "4"]]
    assert " ".join(lines[-2:]).startswith("5 requests: every request has exactly one outcome, and no")


def test_a_ledger_that_does_not_add_up() -> None:
    wrong = [f"[i]request {number} " + "x" * 80 for number in range(25)]
    assert account(wrong=wrong)[-22:] == [*wrong[:20], "and 5 more", "5 requests: 25 faults were found."]
    assert account(wrong=wrong[:2])[-1] == "5 requests: 2 faults were found."
    assert account(wrong=wrong[:1])[-2:] == [wrong[0], "5 requests: one fault was found."]


def test_a_long_command_does_not_break_the_table_of_faults() -> None:
    command = "sh -c 'docker-compose kill -s SIGKILL model_server; docker-compose up -d model_server'"
    of = [OfFault(fault="", requests=375, right=375), OfFault(fault=command, strikes=2, requests=1063)]
    text = shown(quiet(), width=80, faults=FaultAccount(rows=of, requests=1438))
    lines = text.splitlines()
    assert f"1: {command}" in lines
    cells = [line.split() for line in lines]
    assert ["before", "-", "375", "375", "0", "0", "0", "0", "-", "-"] in cells
    assert ["1", "2", "1063", "0", "0", "0", "0", "0", "-", "-"] in cells
