"""When a point can end before its time: it has settled, can't meet its objective any more, or only fails.

Owns those judgements, made while the records come. Ends nothing itself.
"""

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from loadtest.cli.options import Options
from loadtest.measuring.columns import Columns
from loadtest.measuring.figures import NO_LOAD, REFUSED
from loadtest.measuring.slo import nearest_rank
from loadtest.measuring.stability import WINDOWS, is_stable

_ENOUGH_ALIKE: Final = 20

_ENOUGH_REFUSED: Final = 5
"""Requests that lack a key, or have one that may not ask, are refused one like the other."""


class Lookout:
    """Watches one point."""

    def __init__(
        self,
        options: Options,
        columns: Columns,
        duration_s: float | None,
        warmup_s: float,
        is_struck: Callable[[], bool],
    ) -> None:
        self._is_struck = is_struck
        self._options = options
        self._columns = columns
        self._duration_s = duration_s
        self._warmup_s = warmup_s
        self._windows: list[tuple[float, float | None]] = []
        self.settled: float | None = None
        """From when on it was stable, in seconds from the point's start."""
        self.given_up = ""
        """Why there is nothing more to learn, where it is not that it has settled."""
        self.is_hopeless = False
        """Whether that is true of every other load as well."""

    def has_seen_enough(self) -> bool:
        """Look once."""
        elapsed = time.monotonic() - self._columns.start
        if self._fails_alike():
            self.is_hopeless = True
        elif self._is_lost(elapsed):
            self.given_up = "its objective could no longer be met"
        return bool(self.given_up) or self._is_settled(elapsed)

    def _fails_alike(self) -> bool:
        """Every request so far has failed in one way that no load explains: what is asked is wrong.

        Once a fault has struck, that explains it.
        """
        if self._is_struck():
            return False
        alike = self._columns.failed_alike()
        if alike is None or not alike[0].startswith(NO_LOAD):
            return False
        if len(self._columns) < (_ENOUGH_REFUSED if alike[0].startswith(REFUSED) else _ENOUGH_ALIKE):
            return False
        self.given_up = (
            f"all of the first {len(self._columns)} requests failed in the same way ({alike[0]}: {alike[1]})"
        )
        return True

    def _is_settled(self, elapsed: float) -> bool:
        if self._options.stable is None:
            return False
        width = self._options.window_s
        while elapsed >= (begin := self._warmup_s + len(self._windows) * width) + width:
            rate, latencies, _ = self._columns.window(begin, begin + width)
            self._windows.append((rate, nearest_rank(np.sort(latencies), 50)))
            if is_stable(self._windows, self._options.stable):
                self.settled = begin - (WINDOWS - 1) * width
                return True
        return False

    def _is_lost(self, elapsed: float) -> bool:
        """Of a rate that is only tried: why wait for the rest?"""
        slo = self._options.slo
        if not self._options.searches or slo is None or self._duration_s is None:
            return False
        if not self._columns.load.is_open:
            return False
        planned = int(self._columns.load.value * (self._duration_s - self._warmup_s))
        limit_s, allowed = slo.allowed_late(planned)
        late = self._columns.late(limit_s, self._warmup_s, elapsed)
        return late > allowed + math.ceil(slo.errors * planned)
