"""The folder in memory in which the processes of one web tier keep their metrics, so that any can tell all.

Owns its life: Gunicorn's master makes it before it forks, keeps it over reloads and removes it at its end.
Must run before prometheus_client is imported, which looks for the folder then.
Source: https://prometheus.github.io/client_python/multiprocess/
"""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

PARENT: Final = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())  # noqa: S108 - memory

_PREFIX: Final = "batchwire-metrics-"

_LEAST_BYTES: Final = 8
"""Of a file that can be read."""


def make() -> None:
    """Make the folder, unless this process has had one since before a reload, or an operator gives it one."""
    if path():
        return
    for other in PARENT.glob(f"{_PREFIX}*"):
        # Of a master that was killed.
        with contextlib.suppress(FileNotFoundError):  # another that starts at the same moment has removed it
            if other.stat().st_uid == os.getuid() and not _is_alive(other.name.split("-")[2]):
                shutil.rmtree(other, ignore_errors=True)
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=PARENT)


def path() -> str:
    """Where it is; empty where there is none: a process alone needs no folder."""
    return os.environ.get(_VARIABLE, "")


def remove() -> None:
    """Remove it, at the end of its process, unless an operator has made it: it may hold what is not ours."""
    folder = Path(os.environ.pop(_VARIABLE, ""))
    if folder.parent == PARENT and folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def forget(pid: int) -> None:
    """A process has ended: what it counted stays, what it said of itself alone and its files' room go."""
    from prometheus_client import multiprocess  # noqa: PLC0415 - see the module

    with contextlib.suppress(KeyError):  # a test has no folder
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
    for file in Path(path()).glob(f"*_{pid}.db") if path() else ():
        with contextlib.suppress(OSError), file.open("r+b") as opened:
            # A file begins with how much of it is used.
            opened.truncate(max(_LEAST_BYTES, int.from_bytes(opened.read(4), sys.byteorder)))


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass
    return True
