"""The table of `--csv`: one row for each point.

Owns the names of the columns, which stay as they are. A cell without a figure is empty.
"""

import csv
import re
from collections.abc import Callable
from operator import attrgetter
from statistics import fmean
from typing import Final, TextIO

from loadtest.measuring.figures import Figures, RunReport

Cell = str | int | float | None
Columns = dict[str, Callable[[Figures], Cell]]

_LATENCIES: Final = ("mean", "p50", "p90", "p95", "p99", "p99.9", "max")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def write(report: RunReport, file: TextIO) -> None:
    """Write the header and the rows. `file` should be open with `newline=""`."""
    columns = {**_of_load(), **_of_stages(report.points), **_of_server_and_client()}
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([_written(figure(point)) for figure in columns.values()] for point in report.points)


def _of_load() -> Columns:
    counts = ("seconds", "requests", "right", "failed", "interrupted", "per_s")
    return {
        "name": lambda point: point.name,
        "loop": lambda point: "open" if point.load.is_open else "closed",
        "value": lambda point: point.load.value,
        "poisson": lambda point: "true" if point.load.poisson else "false",
        **{name: attrgetter(name) for name in counts},
        **{f"{_slug(name)}_ms": _latency(name) for name in _LATENCIES},
        "mean_batch_size": lambda point: point.mean_batch_size,
    }


def _of_stages(points: list[Figures]) -> Columns:
    """Return a column for each stage that any point has; no two are called the same."""
    columns: Columns = {}
    for stage in dict.fromkeys(stage for point in points for stage in point.stages_ms):
        number, slug = 1, _slug(stage) or "unnamed"
        name = f"stage_{slug}_ms"
        while name in columns:
            number += 1
            name = f"stage_{slug}_{number}_ms"
        columns[name] = _stage(stage)
    return columns


def _of_server_and_client() -> Columns:
    return {
        "queue_mean": lambda point: fmean(jobs for _, jobs in point.queue) if point.queue else None,
        "queue_max": lambda point: max((jobs for _, jobs in point.queue), default=None),
        "client_busy": lambda point: point.client.busy,
        "client_lag_p99_ms": lambda point: point.client.lag_ms[1] if point.client.lag_ms else None,
    }


def _slug(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def _latency(name: str) -> Callable[[Figures], Cell]:
    return lambda point: point.latency_ms.get(name)


def _stage(name: str) -> Callable[[Figures], Cell]:
    return lambda point: point.stages_ms.get(name)


def _written(cell: Cell) -> Cell:
    """Round a number to what a clock can tell; keep a spreadsheet from reading a text as a formula."""
    if isinstance(cell, float):
        return round(cell, 6)
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell
