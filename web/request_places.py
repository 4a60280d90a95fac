"""The places of the requests in flight in one web process, and who may have how many of them.

Owns those bounds. Knows nothing of what a request does with its place. The loop repeats the refusals of those
that found none (overload.py).
"""

import contextlib
import math
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final

from broker.errors import Overloaded
from broker.registry import Registry
from web.keys import access
from web.overload import RecentRefusals

_SHARE: Final = 0.75
"""How many of the places one model may have, where there are others."""

_OWNER_SHARE: Final = 0.5
"""The same of one API key: less, so that it can't fill those of a model either."""

_FULL_S: Final = 0.1
"""For so long all places are believed to be taken, once they were."""


class RequestPlaces:
    """So many places, of which requests take one each. Safe to use from any thread."""

    def __init__(
        self, most: int, registry: Registry, refusals: RecentRefusals, *, has_owners: bool = False
    ) -> None:
        """`has_owners`: each request has an API key, whose owner it counts for."""
        self._most = most
        self._registry = registry
        self._refusals = refusals
        self._has_owners = has_owners
        self._sharing = threading.Lock()
        self._by_model: Counter[str] = Counter()
        self._by_owner: Counter[str] = Counter()
        """All of them, by owner: empty for those without an API key."""

    @property
    def taken(self) -> int:
        """How many requests have one."""
        with self._sharing:
            return self._by_owner.total()

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """A place among the requests in flight. Raises Overloaded when all are taken, or the API key's half.

        The process has a few threads more than places, so that health checks are answered under any load.
        """
        owner = access.owner() if self._has_owners else ""
        with self._sharing:
            # Not all for one owner: its flood would shut out the others.
            if owner and self._by_owner[owner] >= (half := of_one_owner(self._most)):
                raise self._full(f"{half} requests of this API key", lane=owner)
            if self._by_owner.total() >= self._most:
                raise self._full(f"{self._most} requests")
            self._by_owner[owner] += 1
        try:
            yield
        finally:
            with self._sharing:
                self._by_owner[owner] -= 1
                if not self._by_owner[owner]:
                    del self._by_owner[owner]

    @contextlib.contextmanager
    def share(self, model: str) -> Iterator[None]:
        """One of the places that a model may have of all. Raises Overloaded when it has them already.

        Beside others it may have three quarters: with 1,100 clients on a model whose call took 55 s, another
        of the same service gave 8 answers in 20 s where it had given 26 in 3.
        """
        with self._sharing:
            most = self._most
            if len(self._registry.models()) > 1:
                most = max(1, math.floor(_SHARE * most))
            if self._by_model[model] >= most:
                raise self._full(f"{most} requests for {model}", model)
            self._by_model[model] += 1
        try:
            yield
        finally:
            with self._sharing:
                self._by_model[model] -= 1

    def _full(self, places: str, model: str = "", *, lane: str | None = None) -> Overloaded:
        """The refusal of a request whose places are all taken; the loop repeats it for a moment."""
        refusal = Overloaded(f"{places} are in flight here already; come back in 1 s.", valid_s=_FULL_S)
        self._refusals.note(refusal, model, lane=lane)
        return refusal


def of_one_owner(places: int) -> int:
    """How many of so many places one API key may have."""
    return max(1, math.floor(_OWNER_SHARE * places))
