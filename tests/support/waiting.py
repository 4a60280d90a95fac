"""Waiting for a condition, without a sleep that guesses how long. Knows nothing of the service."""

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return once `condition` holds; fail when it does not in time."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen within {within_s:g} s")
        pause.wait(0.01)
