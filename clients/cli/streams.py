"""Where lines go: results to stdout or the file, complaints and a progress bar to stderr.

Owns both streams while the command runs. A bar is drawn only on a terminal.
"""

import sys
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients.cli.rows import plain


class Streams:
    """A context: the bar runs, and results are written as they come."""

    def __init__(self, output: Path | None, total: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._file: BinaryIO | None = output.open("ab", buffering=0) if output else None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("asking", total=total, rate="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._file:
            self._file.close()

    def result(self, line: bytes) -> None:
        """Write a result at once and whole. Raises OSError; BrokenPipeError if nobody reads it."""
        if self._file:
            rest = memoryview(line)
            while rest:  # a disk that fills takes a part
                rest = rest[self._file.write(rest) :]
        elif self._progress.live.is_started and sys.stdout.isatty():
            self._progress.console.print(
                line.decode("utf-8", "replace").rstrip("\n"), soft_wrap=True, markup=False, emoji=False
            )
        else:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def complain(self, text: str) -> None:
        """Write a line to stderr, above the bar."""
        self._console.print(plain(text), soft_wrap=True, markup=False, emoji=False)

    def advance(self, *, failed: int) -> None:
        """One more picture is done; `failed` of all so far failed."""
        task = self._progress.tasks[0]
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        failures = f"  [red]{failed} failed[/red]" if failed else ""
        self._progress.update(self._task, advance=1, rate=f"{escape(rate)}{failures}")
