"""What a process says of a Redis that is away: when it goes, every ten seconds, and when it is back.

Owns that rate, for all threads of the process together: each of them tries again five times a second. Tries
nothing itself.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

_LOG = logging.getLogger(__name__)

AGAIN_S: Final = 10.0
"""Between two lines while it lasts."""


class Outage:
    """Safe to use from any thread. It is over once every thread that failed has succeeded, or has ended.

    So where Redis refuses writes and takes reads, a thread that reads does not call it back.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failing: set[threading.Thread] = set()
        self._since = self._said_at = 0.0

    def failed(self, message: str) -> None:
        """This thread could not reach Redis, for the reason of `message`, and tries again."""
        with self._lock:
            now = self._monotonic()
            if not self._failing:
                self._since = self._said_at = now
                _LOG.warning("%s Trying again.", message)
            elif now - self._said_at >= AGAIN_S:
                self._said_at = now
                _LOG.warning("%s Trying again, for %.0f s now.", message, now - self._since)
            self._failing.add(threading.current_thread())

    def succeeded(self) -> None:
        """This thread has reached Redis. Costs nothing while there is no outage."""
        if not self._failing:
            return
        with self._lock:
            left = {each for each in self._failing if each.is_alive()} - {threading.current_thread()}
            if self._failing and not left:
                _LOG.warning("Redis is back, after %.1f s.", self._monotonic() - self._since)
            self._failing = left
