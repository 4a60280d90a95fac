"""What is seen while a run goes on: a live view in a terminal, a line for each point elsewhere.

Owns the view. Reads the point's columns, changes nothing.
"""

import time
from types import TracebackType
from typing import Final, Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.cli import units
from loadtest.measuring.columns import Columns
from loadtest.measuring.figures import Figures
from loadtest.measuring.slo import nearest_rank

_SPARKS: Final = "▁▂▃▄▅▆▇█"
_RECENT_S: Final = 2.0
_HISTORY: Final = 40

_LATEST_S: Final = 0.5
"""A second is summed up so long after its end: records come a little late."""

_LINE_S: Final = 10.0
"""Where there is no terminal, a line so often tells that it goes on."""


class LiveView:
    """A context; refreshed on demand."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._name = ""
        self._columns: Columns | None = None
        self._duration_s: float | None = None
        self._requests: int | None = None
        self._next_line_s = _LINE_S
        self._seconds: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, name: str, columns: Columns, duration_s: float | None, requests: int | None) -> None:
        """A point begins."""
        self._name, self._columns = name, columns
        self._duration_s, self._requests = duration_s, requests
        self._seconds = []
        self._next_line_s = _LINE_S

    def look(self) -> None:
        """Refresh the view."""
        if self._columns is None:
            return
        elapsed = max(time.monotonic() - self._columns.start, 0.0)
        if self._console.is_terminal:
            self._live.update(self._view(self._columns, elapsed), refresh=True)
        elif elapsed >= self._next_line_s:
            self._next_line_s += _LINE_S
            right = len(self._columns) - self._columns.failed
            self.say(f"{self._name}: {elapsed:.0f} s, {right} right, {self._columns.failed} failed so far")

    def say(self, text: str) -> None:
        """Leave a line."""
        self._console.print(text, soft_wrap=True, markup=False)

    def end(self, figures: Figures) -> None:
        """Leave one line of the point."""
        latency = figures.latency_ms
        percentiles = ", ".join(f"{name} {units.shown(latency[name])}" for name in ("p50", "p95", "p99"))
        line = Text(
            f"{figures.name}: {units.shown(figures.per_s)}/s, {percentiles} ms, {figures.failed} failed"
        )
        if figures.misses:
            line.append(f"  missed: {'; '.join(figures.misses)}", style="red")
        self._console.print(line, soft_wrap=True)

    def _view(self, columns: Columns, elapsed: float) -> Group:
        recent = columns.window(max(0.0, elapsed - _RECENT_S), elapsed) if elapsed else (0.0, np.empty(0), 0)
        overall = columns.window(0.0, elapsed) if elapsed else recent
        table = Table(box=None, pad_edge=False)
        for title in ("", "answers/s", "p50 ms", "p95 ms", "p99 ms", "failed"):
            table.add_column(title, justify="right" if title else "left")
        for title, (rate, latencies, failed) in (("last 2 s", recent), ("so far", overall)):
            ordered = np.sort(latencies) * 1000
            percentiles = (units.shown(nearest_rank(ordered, p)) for p in (50, 95, 99))
            table.add_row(title, units.shown(rate), *percentiles, str(failed))
        rates, p99s = self._history(columns, elapsed)
        lines = [Text(f"answers/s {_sparkline(rates)}"), Text(f"p99       {_sparkline(p99s)}")]
        if columns.queue:
            jobs = [float(length) for _, length in columns.queue][-_HISTORY:]
            lines.append(Text(f"queue     {_sparkline(jobs)} {columns.queue[-1][1]}"))
        return Group(Text(self._name, style="bold"), self._progress(columns, elapsed), table, *lines)

    def _progress(self, columns: Columns, elapsed: float) -> Table:
        """A bar of the requests, or of the time; in a grid, since a bar alone does not end its line."""
        total, completed = self._duration_s, elapsed
        if self._requests:
            total, completed = self._requests, len(columns)
        line = Table.grid()
        line.add_row(ProgressBar(total=total, completed=min(completed, total or completed), width=60))
        return line

    def _history(self, columns: Columns, elapsed: float) -> tuple[list[float], list[float]]:
        """Rates and p99s (ms) of the last forty whole seconds; each is summed up once."""
        for second in range(len(self._seconds), int(elapsed - _LATEST_S)):
            rate, latencies, _ = columns.window(second, second + 1)
            self._seconds.append((rate, (nearest_rank(np.sort(latencies), 99) or 0.0) * 1000))
        shown = self._seconds[-_HISTORY:]
        return [rate for rate, _ in shown], [p99 for _, p99 in shown]


def _sparkline(values: list[float]) -> str:
    highest = max(values, default=0.0)
    if highest <= 0:
        return _SPARKS[0] * len(values)
    return "".join(_SPARKS[round(value / highest * (len(_SPARKS) - 1))] for value in values)
