"""What stands in the terminal at the end: the points, where the time went, what failed.

Owns the text of the result.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.cli import units
from loadtest.faults import account_text
from loadtest.faults.ledger import Account
from loadtest.measuring.figures import FaultAccount, Figures, RunReport, Strike

_MOST_COLUMNS: Final = 3
_NARROW: Final = 80
_MOST_COMPLAINTS: Final = 20


def show(console: Console, report: RunReport) -> None:
    """Print a run's result."""
    console.print(_points(report.points, narrow=console.width < _NARROW))
    few = report.points if len(report.points) <= _MOST_COLUMNS else report.points[-1:]
    tables = [_stages(few), _batches(few), *map(_models, few), _errors(report.points)]
    for table in tables:
        if table.row_count:
            console.print(table)
    for warning in report.warnings:
        console.print(Text(f"! {warning}", style="yellow"), soft_wrap=True)
    if report.faults:
        show_faults(console, report.faults, [s for point in report.points for s in point.strikes])
    for point in report.points if report.slo and not report.conclusion else ():
        verdict = f"missed: {'; '.join(point.misses)}" if point.misses else "met"
        style = "red" if point.misses else "green"
        console.print(Text(f"{point.name}: {report.slo} {verdict}", style=style), soft_wrap=True)
    if report.conclusion:
        console.print(Text(report.conclusion, style="bold"), soft_wrap=True)


def _points(points: list[Figures], *, narrow: bool) -> Table:
    """A row a load. Where there is no room for all, figures are left out, not their digits."""
    table = Table()
    table.add_column("load", no_wrap=True)
    shown = [name for name in ("p50", "p95", "p99", "max") if not narrow or name in {"p50", "p99"}]
    for title in ("answers/s", *(f"{name} ms" for name in shown), "failed", *(() if narrow else ("batch",))):
        table.add_column(title, justify="right", no_wrap=True)
    for point in points:
        table.add_row(
            Text(point.name + (" (given up)" if point.given_up else "")),
            units.shown(point.per_s),
            *(units.shown(point.latency_ms[name]) for name in shown),
            Text(str(point.failed), style="red" if point.failed else ""),
            *(() if narrow else (units.shown(point.mean_batch_size),)),
        )
    return table


def _stages(points: list[Figures]) -> Table:
    """Where the mean latency went: a row a stage, in milliseconds and in per cent."""
    points = [point for point in points if len(point.stages_ms) > 1]
    table = Table("where the time went")
    for point in points:
        table.add_column(Text(point.name), justify="right")
    for stage in dict.fromkeys(stage for point in points for stage in point.stages_ms):
        cells = []
        for point in points:
            value, mean = point.stages_ms.get(stage, 0.0), point.latency_ms["mean"] or 1.0
            cells.append(f"{units.shown(value)} ms  {value / mean:4.0%}")
        table.add_row(Text(stage), *cells)
    return table


def _batches(points: list[Figures]) -> Table:
    """How many answers rode in batches of which size; sizes by powers of two."""
    points = [point for point in points if point.batch_sizes]
    table = Table("batch size")
    for point in points:
        table.add_column(Text(point.name), justify="right")
    largest = max((size for point in points for size in point.batch_sizes), default=0)
    low = 1
    while low <= largest:
        high = low * 2 - 1
        counts = [sum(n for size, n in p.batch_sizes.items() if low <= size <= high) for p in points]
        shares = (f"{n / sum(p.batch_sizes.values()):.0%}" for n, p in zip(counts, points, strict=True))
        table.add_row(str(low) if low == high else f"{low} to {high}", *shares)
        low *= 2
    return table


def _models(point: Figures) -> Table:
    table = Table("model", "requests", "right", "p50 ms", "p99 ms", title=Text(point.name))
    for name, each in point.models.items():
        figures = (str(each.requests), str(each.right), units.shown(each.p50_ms), units.shown(each.p99_ms))
        table.add_row(Text(name or "(default)"), *figures)
    return table


def _errors(points: list[Figures]) -> Table:
    table = Table("load", "failed", "requests", "the first of them")
    for point in points:
        for kind, errors in point.errors.items():
            table.add_row(Text(point.name), Text(kind), str(errors.count), Text(errors.example))
    return table


def show_faults(console: Console, account: FaultAccount, strikes: Iterable[Strike]) -> None:
    """Print the account of a run with faults: a row each, then which strikes failed and the verdict.

    Commands are long: they stand above the table, with the numbers that their rows have.
    """
    places = {row.fault: str(at) for at, row in enumerate((r for r in account.rows if r.fault), 1)}
    for command, place in places.items():
        console.print(Text(f"{place}: {command}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, title in enumerate(account_text.HEADS):
        table.add_column(title, justify="right" if number else "left", overflow="fold")
    for name, *cells in account_text.rows(account):
        figures = (Text(c.text, style="red" if c.is_bad else "") for c in cells)
        table.add_row(Text(places.get(str(name), "before")), *figures)
    console.print(table)
    for trouble, count in Counter(f"{s.fault}: {s.trouble}" for s in strikes if s.trouble).items():
        console.print(Text(f"! {trouble}{f' ({count} times)' * (count > 1)}", style="red"), soft_wrap=True)
    style = "green" if account.is_sound else "red"
    console.print(Text(account_text.verdict(account), style=style), soft_wrap=True)


def show_account(console: Console, name: str, account: Account) -> None:
    """Print what a ledger adds up to."""
    table = Table("outcome", title=Text(name))
    table.add_column("requests", justify="right")
    for outcome, count in sorted(account.outcomes.items()):
        table.add_row(Text(outcome), str(count))
    console.print(table)
    for wrong in account.wrong[:_MOST_COMPLAINTS]:
        console.print(Text(wrong, style="red"), soft_wrap=True)
    if len(account.wrong) > _MOST_COMPLAINTS:
        console.print(Text(f"and {len(account.wrong) - _MOST_COMPLAINTS} more", style="red"))
    verdict = "every request has exactly one outcome, and no answer is another picture's"
    if not account.adds_up:
        verdict = (
            f"{len(account.wrong)} faults were found" if len(account.wrong) > 1 else "one fault was found"
        )
    console.print(Text(f"{account.requests} requests: {verdict}."))
    if account.faults:
        show_faults(console, account.faults, account.strikes)
