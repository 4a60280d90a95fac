"""Two runs side by side, load by load.

Owns which loads belong together. Reads only what `--json` wrote; whether a figure is worse is
regression.py's.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from loadtest.measuring.figures import FORMAT, VERSION, Figures, RunReport
from loadtest.measuring.regression import Change, changes


class CompareError(Exception):
    """There is nothing to compare; the text says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs. Loads that only one of them has are named, and not judged."""

    points: dict[str, list[Change]]
    """By the name of the load."""
    only_before: list[str]
    only_after: list[str]

    @property
    def worse(self) -> list[str]:
        """What is worse by more than the tolerance, in words."""
        return [
            f"{name}: {change.sentence}"
            for name, found in self.points.items()
            for change in found
            if change.is_worse
        ]


class _Header(msgspec.Struct):
    format: str = ""
    version: int = 0


def read(path: Path) -> RunReport:
    """Read what `--json` wrote. Raises CompareError, which names the file, for anything else."""
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content, type=_Header)
        if header.format != FORMAT:
            raise CompareError(f"{path} has no figures of a load test, which --json writes.")
        if header.version != VERSION:
            raise CompareError(f"{path} has figures of version {header.version}; version {VERSION} is read.")
        return msgspec.json.decode(content, type=RunReport)
    except OSError as error:
        raise CompareError(f"{path} can't be read: {error.strerror}.") from error
    except msgspec.ValidationError as error:
        raise CompareError(f"{path} has no figures of a load test: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CompareError(f"{path} is not JSON: {error}.") from error


def compare(before: RunReport, after: RunReport, *, tolerance: float) -> Comparison:
    """Compare the loads that both runs have. Raises CompareError if there is none.

    Throughput may be lower, and p50, p95 and p99 higher, by the share `tolerance`.
    """
    old, new = _by_name(before), _by_name(after)
    both = {name: changes(old[name], new[name], tolerance=tolerance) for name in old if name in new}
    if not both:
        loads = [", ".join(points) or "none" for points in (old, new)]
        raise CompareError(f"The two runs have no load in common: {loads[0]} before, {loads[1]} after.")
    only_before = [name for name in old if name not in new]
    return Comparison(both, only_before, only_after=[name for name in new if name not in old])


def _by_name(report: RunReport) -> dict[str, Figures]:
    """Name the points. A search tries a load twice: the second is compared with the second."""
    seen: Counter[str] = Counter()
    named = {}
    for point in report.points:
        seen[point.name] += 1
        named[point.name if seen[point.name] == 1 else f"{point.name} ({seen[point.name]})"] = point
    return named


def table(comparison: Comparison) -> Table:
    """Show both runs, figure by figure."""
    rows = Table()
    for title in ("load", "figure"):
        rows.add_column(title, no_wrap=True)
    for title in ("before", "after", "change"):
        rows.add_column(title, justify="right", no_wrap=True)
    rows.add_column("")
    for name, found in comparison.points.items():
        for change in found:
            first, last = change is found[0], change is found[-1]
            verdict, style = ("worse", "red") if change.is_worse else ("", "")
            cells = Text(name if first else ""), change.figure, *change.words, verdict
            rows.add_row(*cells, style=style, end_section=last)
    for name in comparison.only_before:
        rows.add_row(Text(name), "only before")
    for name in comparison.only_after:
        rows.add_row(Text(name), "only after")
    return rows
