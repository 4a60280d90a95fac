"""The strikes: the user's own commands, run in turn on a schedule while the load goes on.

Owns the schedule (seeded) and the commands' lives. Knows nothing of requests: what became of them is
attribution.py's. No shell is used unless a command names one.
"""

import asyncio
import os
import random
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO, Final

from loadtest.measuring.figures import Strike
from loadtest.sending.messages import plain

LIMIT_S: Final = 60.0
"""A command that takes longer is killed, with all that it started in its process group."""

_JITTER: Final = 0.25
"""The pause between two strikes is off --every by up to this share: in step with nothing of the service."""

_TAIL_BYTES: Final = 2000


class Faults:
    """Strikes with each command in turn until stopped; `struck` hears of each strike once it is over."""

    def __init__(
        self,
        commands: Sequence[str],
        *,
        every_s: float,
        seed: int,
        struck: Callable[[Strike], None],
        limit_s: float = LIMIT_S,
    ) -> None:
        self._commands = commands
        self._every_s = every_s
        self._chance = random.Random(f"{seed} faults")
        self._struck = struck
        self._limit_s = limit_s
        self._ended = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self.begun = 0
        """How many strikes have begun."""

    def start(self) -> None:
        """Begin the schedule; the first strike comes after the first pause."""
        self._running = asyncio.create_task(self._run())

    def end(self, *, abandon: bool = False) -> None:
        """Begin no more strikes; with `abandon`, kill the command that runs."""
        self._ended.set()
        if abandon and self._running:
            self._running.cancel()

    async def wait(self) -> None:
        """Return when the last strike is over: a command in mid-work may be about to mend what it broke."""
        if self._running:
            await self._running

    async def _run(self) -> None:
        while not self._ended.is_set():
            pause = self._every_s * self._chance.uniform(1 - _JITTER, 1 + _JITTER)
            try:
                await asyncio.wait_for(self._ended.wait(), pause)
            except TimeoutError:
                command = self._commands[self.begun % len(self._commands)]
                self.begun += 1
                self._struck(await self._strike(command))
            except asyncio.CancelledError:
                return

    async def _strike(self, command: str) -> Strike:
        strike = Strike(command, time.monotonic())
        # A file, not a pipe: what the command leaves running in the background would hold a pipe open.
        with tempfile.TemporaryFile() as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *shlex.split(command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the load tester
                )
            except OSError as error:
                strike.trouble = f"it can't be started: {error.strerror}"
            else:
                strike.trouble = await self._outlived(process)
                strike.status = process.returncode
                if strike.status and not strike.trouble:
                    strike.trouble = f"exit status {strike.status}{_said(output)}"
        strike.ended = time.monotonic()
        return strike

    async def _outlived(self, process: asyncio.subprocess.Process) -> str:
        """Wait until a command has ended, or kill it; return why it had to be killed."""
        try:
            await asyncio.wait_for(process.wait(), self._limit_s)
        except TimeoutError:
            why = f"killed, because it took longer than {self._limit_s:g} s"
        except asyncio.CancelledError:
            why = "killed, because the run was stopped"
        else:
            return ""
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return why


def _said(output: BinaryIO) -> str:
    """The last line that a command wrote."""
    output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = output.read().decode("utf-8", "replace").strip().splitlines()
    return f": {plain(lines[-1])}" if lines else ""
