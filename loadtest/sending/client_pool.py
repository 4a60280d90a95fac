"""The client processes: they are started, sent their orders, listened to and ended.

Owns their lives. Knows nothing of HTTP or of figures.
"""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from loadtest.sending.messages import (
    Begin,
    ClientReady,
    Command,
    Halt,
    Load,
    LoadEnd,
    LoadPlan,
    PlanRefusal,
    Record,
    Records,
    Report,
    decode_report,
    encode,
)

_ROOT: Final = Path(__file__).resolve().parents[2]
_LINE_BYTES: Final = 64 * 2**20
_END_S: Final = 5.0

START_DELAY_S: Final = 0.1
"""A point begins this long after it was asked for, at the same moment in every client process."""


class ClientFailed(Exception):
    """A client process refused its plan or ended by itself; the text says why."""


class Crew:
    """An asynchronous context: the processes live inside it."""

    def __init__(self, plan: LoadPlan, processes: int) -> None:
        self._plan = plan
        self._count = processes
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        try:
            for _ in range(self._count):
                self._processes.append(await _spawn())
            for process in self._processes:
                _tell(process, self._plan)
            for process in self._processes:
                match await _hear(process):
                    case ClientReady():
                        continue
                    case PlanRefusal(reason):
                        raise ClientFailed(reason)
                    case other:
                        raise ClientFailed(
                            f"a client process said {other!r} before it was ready. This is a bug"
                        )
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def apply(
        self,
        load: Load,
        *,
        start: float,
        duration_s: float | None,
        requests: int | None,
        take: Callable[[list[Record]], None],
    ) -> list[LoadEnd]:
        """Apply one load, handing on the records as they come. Returns when all that was sent has ended."""
        most = min(self._count, requests or self._count)
        shares = most if load.is_open else min(most, int(load.value))
        chosen = self._processes[:shares]
        for share, process in enumerate(chosen):
            _tell(process, Begin(load, start, duration_s, requests, share, shares))
        return await asyncio.gather(*(_listen(process, take) for process in chosen))

    def halt(self, *, abandon: bool = False) -> None:
        """Tell every process to send no more."""
        for process in self._processes:
            _tell(process, Halt(abandon))

    async def _end(self) -> None:
        for process in self._processes:
            if process.stdin:
                process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _spawn() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loadtest.sending.client_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
        cwd=_ROOT,
        # Ctrl-C in a terminal goes to the coordinator alone, which then tells what there is.
        start_new_session=True,
    )


def _tell(process: asyncio.subprocess.Process, command: Command) -> None:
    if process.stdin and process.returncode is None:
        process.stdin.write(encode(command) + b"\n")


async def _hear(process: asyncio.subprocess.Process) -> Report:
    if process.stdout is None:
        raise ClientFailed("a client process has no output. This is a bug")
    line = await process.stdout.readline()
    if not line:
        raise ClientFailed(f"a client process exited unexpectedly (status {await process.wait()})")
    return decode_report(line)


async def _listen(process: asyncio.subprocess.Process, take: Callable[[list[Record]], None]) -> LoadEnd:
    while True:
        match await _hear(process):
            case Records(records):
                take(records)
            case LoadEnd() as done:
                return done
            case PlanRefusal(reason):
                raise ClientFailed(reason)
            case other:
                raise ClientFailed(f"a client process said {other!r} in mid-run. This is a bug")
