"""The files in which a web process keeps its metrics: each has its room before anything is written to it.

Owns what happens where there is none. Pages of a sparse file are found as they are written: in a full
/dev/shm that was SIGBUS, for each web process and each that replaced it. Counts are never worth a request.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Final

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_LOG = logging.getLogger(__name__)

_FIRST_BYTES: Final = 1 << 16
_ENTRY_BYTES: Final = 32
"""What a series takes besides its name, rounded up."""


class ReservedFile(MmapedDict):
    """What prometheus_client keeps a process's values of one kind in. Its callers hold a lock."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(_reserved(filename), read_mode)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """A series' value and time; 0 for one that has no room."""
        try:
            value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        except OSError:
            return 0.0, 0.0
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a series; one that has no room is counted on in this process, and written when it has."""
        with contextlib.suppress(OSError):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        end, capacity = self._used + len(key.encode()) + _ENTRY_BYTES, self._capacity
        while capacity < end:
            capacity *= 2
        if capacity > self._capacity:
            os.posix_fallocate(self._f.fileno(), 0, capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def install() -> None:
    """Have prometheus_client use these, before its first value is made. Only Linux has what they need."""
    if sys.platform == "linux":
        values.MmapedDict = ReservedFile  # type: ignore[attr-defined]


def _reserved(filename: str) -> str:
    """A file of that name with room in it, which others see whole; else one that only this process has."""
    fresh = Path(f"{filename}.new")
    try:
        if not Path(filename).exists():
            with fresh.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, _FIRST_BYTES)
            fresh.rename(filename)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        _LOG.warning("/metrics lacks what this process counts: %s: %s", fresh.parent, error.strerror)
        return f"/proc/self/fd/{os.memfd_create('metrics')}"
    return filename
