"""What a killed run of the tests leaves behind: the next run ends the processes and removes the folders.

Owns how they are known: a variable that all processes of a run inherit, and the names of the folders. Touches
nothing of a run that is alive. Needs Linux. tests/support/network.py does the same for network namespaces.
"""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

VARIABLE: Final = "BATCHWIRE_TEST_RUN"
"""The process id of the run."""

_PROC: Final = Path("/proc")
_SWEEPS: Final = 5
"""A master that is not dead yet may replace a process that is."""


def folder() -> Path:
    """Make a temporary folder with a short name (a Unix socket's path has 107 bytes at most).

    Redis and nginx overwrite what /proc shows of their variables: what runs in such a folder is known by it.
    """
    return Path(tempfile.mkdtemp(prefix=f"bw-{os.getpid()}-"))


def discard(path: Path) -> None:
    """Remove a folder whose server was killed: its child may still write to it, the rewrite of a file."""
    for _ in range(_SWEEPS):
        with contextlib.suppress(OSError):  # gone meanwhile, or not empty
            shutil.rmtree(path)
        if not path.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(path)


def mark() -> None:
    """Have all processes that this one starts belong to its run, or to the one that it belongs to itself."""
    if not _is_alive(os.environ.get(VARIABLE, "")):
        os.environ[VARIABLE] = str(os.getpid())


def remove() -> None:
    """End the processes and remove the folders of all runs that are no more."""
    if not _PROC.is_dir():
        return
    for _ in range(_SWEEPS):
        left = list(_left())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            break
    for path in Path(tempfile.gettempdir()).glob("bw-*-*"):
        owner = _owner(str(path))
        if owner and not _is_alive(owner):
            shutil.rmtree(path, ignore_errors=True)


def _left() -> Iterator[int]:
    # A container's process ids are others: what they say here is of somebody else.
    namespace = (_PROC / "self" / "ns" / "pid").stat().st_ino
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            run = _run(process)
            if run and not _is_alive(run) and (process / "ns" / "pid").stat().st_ino == namespace:
                yield int(process.name)


def _run(process: Path) -> str:
    """The run that a process belongs to; empty if to none."""
    variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
    runs = [value for name, _, value in (each.partition("=") for each in variables) if name == VARIABLE]
    return runs[0] if runs else _owner(os.readlink(process / "cwd"))


def _owner(path: str) -> str:
    """Whose folder it is, or is within."""
    folder = re.match(rf"{re.escape(tempfile.gettempdir())}/bw-(\d+)-", path)
    return folder[1] if folder else ""


def _is_alive(run: str) -> bool:
    return bool(run) and (_PROC / run).exists()
