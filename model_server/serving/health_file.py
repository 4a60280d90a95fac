"""The health files of a model server: one a model, which says until when its worker holds its lease.

Owns the files in HEALTH_DIR. Asks nobody else, and imports next to nothing: a container's health check reads
them every few seconds.

Several model servers may share the folder. Each locks its files while it lives: the kernel unlocks those of
one that was killed, so that what it left behind is no longer judged.
"""

import contextlib
import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "var" / "health"
"""The default of HEALTH_DIR."""


class HealthFiles:
    """The files of this process. Threads of all its models may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, tuple[Path, int]] = {}
        """Model -> its file, and the descriptor that has the lock."""
        self._holding = threading.Lock()

    def beat(self, model: str, *, lease_s: float) -> None:
        """Say that a worker serves `model` and holds its lease for `lease_s` from now."""
        lapses = time.time() + lease_s
        # An installation that can't be written goes without this check, not without service.
        with self._holding, contextlib.suppress(OSError):
            if model in self._held:
                with contextlib.suppress(FileNotFoundError):  # somebody has cleared the folder
                    os.utime(self._held[model][0], (lapses, lapses))
                    return
                os.close(self._held.pop(model)[1])
            self._hold(model, lapses)

    def clear(self) -> None:
        """Remove the files: this process serves no more."""
        with self._holding:
            while self._held:
                path, lock = self._held.popitem()[1]
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(lock)

    def _hold(self, model: str, lapses: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in _files(self._folder):
            with contextlib.suppress(OSError):
                if not _is_held(path):
                    path.unlink()
        # Processes of several containers may have the same id.
        path = self._folder / f"{model}.{os.getpid()}-{time.time_ns()}"
        hidden = path.with_name(f".{path.name}")
        lock = os.open(hidden, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(hidden, (lapses, lapses))
            hidden.rename(path)  # it is never seen without its lock
        except OSError:
            os.close(lock)
            hidden.unlink(missing_ok=True)
            raise
        self._held[model] = (path, lock)


def verdict(folder: Path, now: float) -> str:
    """Why the model servers of `folder` are not well at `now` (Unix time); empty when they are."""
    leases: list[tuple[str, float]] = []
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):  # its process has just ended
            lapses = path.stat().st_mtime
            if _is_held(path):
                leases.append((path.name.partition(".")[0], lapses))
    lapsed = sorted({model for model, lapses in leases if lapses < now})
    if lapsed:
        return f"the lease has lapsed of: {', '.join(lapsed)}"
    return "" if leases else "no model is served yet"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if not path.name.startswith(".")]


def _is_held(path: Path) -> bool:
    """Whether a process that lives has the file. Raises FileNotFoundError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:  # another user's: nothing is known but that it is there
        return True
    try:
        # Shared: two that look at once see no lock of each other's.
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
