"""Which failures are tried again, when, and for how long. Owns the rule; waits for nothing itself."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clients.errors import BatchwireError, ConnectionFailure, ServiceUnavailable

_LASTING: Final = "model_unavailable"
"""A 503 that only the service's operator can end: its Retry-After is for monitors."""


def may_pass(failure: BatchwireError) -> bool:
    """Whether the same request may succeed later.

    A prediction changes nothing in the service, so a request whose answer was lost is safe to send again.
    Not after a timeout: a service that is slow must not get the same work twice.
    """
    match failure:
        case ConnectionFailure():
            return True
        case ServiceUnavailable():
            return failure.code != _LASTING
    return False


@dataclass(frozen=True, slots=True)
class Retrying:
    """How long a call is tried again, and how often."""

    total_s: float = 60.0
    """Counts from the first attempt; 0: nothing is tried again."""
    first_s: float = 0.5
    """The pause after the first failure that names none; each further one is twice as long."""
    most_s: float = 10.0
    jitter: Callable[[], float] = random.random
    """A number from 0 to 1: clients that failed together must not come back together."""

    def pause_s(self, failure: BatchwireError, *, attempt: int, elapsed_s: float) -> float | None:
        """Seconds until the attempt after this one (the first is 0); None where there is to be none.

        What Retry-After says is the least: up to a tenth, and half a second, is added.
        """
        if not may_pass(failure):
            return None
        if failure.retry_after_s is None:
            pause_s = min(self.most_s, self.first_s * 2 ** min(attempt, 30)) * (0.5 + self.jitter() / 2)
        else:
            pause_s = failure.retry_after_s + self.jitter() * (0.5 + failure.retry_after_s / 10)
        return pause_s if elapsed_s + pause_s <= self.total_s else None
