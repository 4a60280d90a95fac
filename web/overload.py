"""What this process has refused a moment ago: the same request need not be looked at again to be refused.

Owns for how long a refusal is believed. Admission itself is the broker's (producer.py). Knows no HTTP.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from broker.errors import Overloaded

ANY_MODEL: Final = ""

_MOST: Final = 1024
"""Refusals that are remembered at once: of a few models, for as many lanes as there are keys."""


_RENEW_AFTER: Final = 0.75
"""After this part of its time one request is let through, to ask again for all. At its end every request that
comes before the first has its verdict would be: of a flood of 250 a second 22 to 33, at 3 ms each."""


@dataclass(slots=True)
class _Believed:
    """A refusal, and by the monotonic clock when it is to be renewed and until when it is believed."""

    refusal: Overloaded
    renew_at: float
    until: float


class RecentRefusals:
    """The models that were overloaded when they were last asked. Safe to use from any thread.

    A refusal of admission is one lane's: others have shares of their own.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._refusals: dict[tuple[str, str | None], _Believed] = {}
        """By model and lane; None: whatever the lane. Or by owner, whatever the model and the weight."""

    def __bool__(self) -> bool:
        return bool(self._refusals)

    def note(self, refusal: Overloaded, model: str = ANY_MODEL, *, lane: str | None = None) -> None:
        """Remember a refusal for as long as it is valid: of all lanes, or of that one alone."""
        if refusal.valid_s:
            if len(self._refusals) >= _MOST:
                self._refusals.clear()  # whoever is forgotten is asked about once more
            # Of a key's limits the end is known: to ask before it would be in vain.
            renew_s = refusal.valid_s * _RENEW_AFTER if model or lane is None else math.inf
            now = self._monotonic()
            self._refusals[model, lane] = _Believed(refusal, now + renew_s, now + refusal.valid_s)

    def of(self, model: str, *, lane: str = "") -> Overloaded | None:
        """What a request for this model would be refused with in this lane; None if that is not known."""
        for name in ((ANY_MODEL, None), (model, None), (model, lane)):
            if (refusal := self._believed(name)) is not None:
                return refusal
        return None

    def of_owner(self, owner: str) -> Overloaded | None:
        """What any request of this owner would be refused with; None if that is not known."""
        return self._believed((ANY_MODEL, owner))

    def _believed(self, name: tuple[str, str | None]) -> Overloaded | None:
        if (believed := self._refusals.get(name)) is None or (now := self._monotonic()) >= believed.until:
            return None
        if now >= believed.renew_at:
            believed.renew_at = math.inf
            return None
        return believed.refusal
