"""How many processes and threads the web tier has where the settings leave it to the machine.

Owns the rule, the count of cores that this process may really use, and its limit of open files. Starts
nothing.
"""

import math
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESERVED_THREADS: Final = 8
"""Threads of a process that no waiting request can take: health checks, polls and refusals use them."""

_IN_FLIGHT: Final = 1024
"""Requests that may wait at once, in all processes together: what QUEUE_LIMIT lets in by default. A thread is
started when it is needed, and one that waits costs next to nothing: with 900 clients a request took 5.4 CPU
ms of the web tier, with 32 clients 8 (a network of 0.4 s a call)."""

_LEAST_THREADS: Final = 128
_WORKERS: Final = (2, 16)
"""Two, so that one can be killed; sixteen decode 2,000 photos of 720p a second, and a process takes 60 MB."""

_FILES: Final = 8192
"""Open files: many systems begin with 1024, which a thousand connections and Redis' would exceed."""

_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Capacity:
    """Processes, and threads in each."""

    workers: int
    threads: int

    @property
    def requests(self) -> int:
        """Requests that one process has in flight at most."""
        return max(1, self.threads - RESERVED_THREADS)


def of(workers: int, threads: int, *, cores: int | None = None) -> Capacity:
    """The size that WEB_WORKERS and WEB_THREADS name; by `cores` (None: this process') where they are 0."""
    least, most = _WORKERS
    workers = workers or min(most, max(least, usable_cores() if cores is None else cores))
    needed = math.ceil(_IN_FLIGHT / workers) + RESERVED_THREADS
    return Capacity(workers, threads or max(_LEAST_THREADS, needed))


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may run on, and a container's limit of CPU time in whole cores; at least 1."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, math.ceil(_quota(cgroup) or cores)))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of CPU time that a container gets; None: no limit. Control groups 2, else 1."""
    try:
        if (cgroup / "cpu.max").is_file():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError):  # no such file; `max`, which is no number
        return None


def open_files() -> None:
    """Let this process have as many files open as it needs, where it may."""
    files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most_files, _FILES)), most_files))
