"""Refusals that wait: where clients come back as fast as they are refused, each refusal is held for a while.

Owns which connections wait with one, and until when. The loop holds them, no thread does; worker.py answers.
"""

from collections import deque
from typing import Final

from broker.errors import ServiceError
from web.server.connection import Connection

STORM: Final = 32
"""Refusals within STORM_S that are a storm. Fewer are answered at once."""

STORM_S: Final = 1.0

HOLD_S: Final = 1.0
"""The least that Retry-After asks of a client: one that waits that long by itself loses nothing."""


class HeldRefusals:
    """Refusals in the order in which they were made."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=STORM)
        self.waiting: deque[tuple[float, Connection, ServiceError]] = deque()
        """Until when, whose, and what they are."""

    def hold(self, conn: Connection, error: ServiceError, now: float) -> bool:
        """Keep a refusal if there is a storm of them; return whether it is kept."""
        is_storm = len(self._recent) == STORM and now - self._recent[0] < STORM_S
        self._recent.append(now)
        if is_storm:
            self.waiting.append((now + HOLD_S, conn, error))
        return is_storm

    def due(self, now: float) -> list[tuple[Connection, ServiceError]]:
        """Take those that have been held for long enough."""
        due = []
        while self.waiting and self.waiting[0][0] <= now:
            _, conn, error = self.waiting.popleft()
            due.append((conn, error))
        return due
