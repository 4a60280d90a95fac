"""The account of a run with faults as people read it: heads, cells, verdict; for the terminal and the page.

Owns those words. Counting is attribution.py's.
"""

from dataclasses import dataclass
from typing import Final

from loadtest.cli import units
from loadtest.measuring.figures import FaultAccount, OfFault

HEADS: Final = (
    "fault", "strikes", "requests", "right", "refused", "cut", "lost", "wrong", "slowest s", "normal after s",
)  # fmt: skip

LEGEND: Final = (
    "A request belongs to the first strike that came while it was under way, or else to the last one before "
    "it was due; one that was refused or cut to the last one before that. Refused: 503 with a reason; cut: "
    "its connection was; lost: any other failure; wrong: not its picture's answer. Slowest: of the right "
    "answers. Normal after: from a strike until a request was due from which on all were right; the longest."
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in one place of the table."""

    text: str
    is_bad: bool = False

    def __str__(self) -> str:
        return self.text


def rows(account: FaultAccount) -> list[list[Cell]]:
    """Return a row of cells for each fault; requests before the first strike have one where there are any."""
    return [_row(row) for row in account.rows if row.fault or row.requests]


def _row(row: OfFault) -> list[Cell]:
    strikes = f"{row.strikes}" + (f" ({row.troubled} failed)" if row.troubled else "")
    back = units.shown(row.back_s)
    if row.unrecovered:
        back += f" ({row.unrecovered} not seen)"
    return [
        Cell(row.fault or "(before the first)"),
        Cell(strikes if row.fault else "-", is_bad=bool(row.fault and (row.troubled or not row.strikes))),
        *(Cell(str(count)) for count in (row.requests, row.right, row.refused, row.cut)),
        *(Cell(str(count), is_bad=count > 0) for count in (row.lost, row.wrong)),
        Cell(units.shown(row.slowest_s)),
        Cell(back if row.fault else "-"),
    ]


def verdict(account: FaultAccount) -> str:
    """Return the account in one sentence, whatever is wrong in it named."""
    lost, wrong = (sum(getattr(row, name) for row in account.rows) for name in ("lost", "wrong"))
    strikes, troubled = (sum(getattr(row, name) for row in account.rows) for name in ("strikes", "troubled"))
    ended = "each ended once"
    if account.missing or account.doubled:
        ended = f"{account.missing} never ended, {account.doubled} ended more than once"
    stopped = f" ({account.interrupted} stopped by you)" if account.interrupted else ""
    text = f"{account.requests} requests{stopped}, {strikes} strikes: {ended}; {lost} lost, {wrong} wrong"
    if troubled:
        text += f"; {troubled} strikes failed"
    if any(row.fault and not row.strikes for row in account.rows):
        text += "; not every fault struck: change --duration or --every"
    return f"{text}."
