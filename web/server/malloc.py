"""How this process' C library keeps memory that was freed.

Owns one setting of glibc's malloc, and its trim. Measures nothing.
"""

import contextlib
import ctypes
from typing import Final

LARGE_BYTES: Final = 4 * 1024 * 1024
"""Above what an ordinary upload and its pixels take, so that those cost no call to the kernel."""

_M_MMAP_THRESHOLD: Final = -3
"""From malloc.h; mallopt(3)."""


def give_back_large_blocks() -> None:
    """Have blocks of LARGE_BYTES and more go back to the system when they are freed.

    By itself glibc raises that limit to 32 MB once a large block was freed, and then keeps uploads of 20 MB
    for good: 40 of them left a process at 550 to 900 MB, and with this at 280. Does nothing without glibc.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back_free_pages() -> None:
    """Have all pages that hold nothing go back to the system, those between blocks too (malloc_trim(3))."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
