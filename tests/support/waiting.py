"""Waiting for a condition, without a sleep that guesses how long. Knows nothing of the service."""

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Return once `condition` holds; fail when it does not in time.

    It is asked often at first, then ten times a second: what is waited for needs the cores more.
    """
    began = time.monotonic()
    pause = threading.Event()
    while not condition():
        waited = time.monotonic() - began
        if waited > within_s:
            raise AssertionError(f"it did not happen within {within_s:g} s")
        pause.wait(min(max(0.01, waited / 10), 0.1))
