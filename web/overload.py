"""What this process has refused a moment ago: the same request need not be looked at again to be refused.

Owns for how long a refusal is believed. Admission itself is the broker's (producer.py). Knows no HTTP.
"""

import time
from collections.abc import Callable
from typing import Final

from broker.errors import Overloaded

ANY_MODEL: Final = ""


class RecentRefusals:
    """The models that were overloaded when they were last asked. Safe to use from any thread."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._refusals: dict[str, tuple[float, Overloaded]] = {}

    def __bool__(self) -> bool:
        return bool(self._refusals)

    def note(self, refusal: Overloaded, model: str = ANY_MODEL) -> None:
        """Remember a refusal for as long as it is valid."""
        if refusal.valid_s:
            self._refusals[model] = (self._monotonic() + refusal.valid_s, refusal)

    def of(self, model: str) -> Overloaded | None:
        """What a request for this model would be refused with; None if that is not known."""
        for name in (ANY_MODEL, model):
            until, refusal = self._refusals.get(name, (0.0, None))
            if self._monotonic() < until:
                return refusal
        return None
