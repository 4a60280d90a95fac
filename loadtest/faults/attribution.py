"""What became of the requests around each strike: the account of a run with faults.

Owns the rule which strike a request belongs to, and the kinds of its end. A request belongs to the first
strike that began while it was under way, or else to the last one before it was due; one that was refused or
cut, which happens in a moment, to the last strike before that. To one strike, so that the account adds up.
Takes times from whatever clock the strikes have.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from loadtest.measuring.consistency import CONTRADICTIONS
from loadtest.measuring.figures import FaultAccount, OfFault, Strike
from loadtest.sending.messages import INTERRUPTED, OK, Record

RIGHT, REFUSED, CUT, WRONG, LOST = range(5)

_AT_ONCE: Final = frozenset({REFUSED, CUT})

_CUT: Final = frozenset({"connection lost", "connection refused"})


def kind(outcome: str) -> int:
    """Return which of the five an outcome is.

    Only a 503 that says its reason in words is a refusal. Wrong is what came as a right answer would.
    """
    if outcome == OK:
        return RIGHT
    if outcome.startswith("http 503 "):
        return REFUSED
    if outcome in _CUT:
        return CUT
    return WRONG if outcome in CONTRADICTIONS or outcome.startswith("bad answer") else LOST


class Aftermath:
    """Takes every record of a run, and sums them up once the strikes are known."""

    def __init__(self) -> None:
        self._due, self._ended, self._kind = array("d"), array("d"), array("b")
        self._numbers: set[tuple[int, int]] = set()
        self._doubled = 0
        self._interrupted = 0

    def add(self, point: int, record: Record) -> None:
        """Take one record. What the user stopped is no fault's."""
        if (point, record.number) in self._numbers:
            self._doubled += 1
        self._numbers.add((point, record.number))
        if record.outcome == INTERRUPTED:
            self._interrupted += 1
            return
        self._due.append(record.due)
        self._ended.append(record.ended)
        self._kind.append(kind(record.outcome))

    def account(self, faults: Sequence[str], strikes: Sequence[Strike], begun: int) -> FaultAccount:
        """Sum up: a row for each fault, the requests before the first strike in a row of their own.

        `begun` is how many requests were sent.
        """
        strikes = sorted(strikes, key=lambda strike: strike.began)
        begins = [strike.began for strike in strikes]
        before: list[int] = []
        of_strike: list[list[int]] = [[] for _ in strikes]
        for index, due in enumerate(self._due):
            last = bisect_right(begins, self._ended[index]) - 1
            met = last if self._kind[index] in _AT_ONCE else bisect_left(begins, due)
            number = min(met, last)
            (of_strike[number] if number >= 0 else before).append(index)
        rows = [self._row(OfFault(fault=""), before)]
        for fault in faults:
            row = OfFault(fault=fault)
            for strike, mine in zip(strikes, of_strike, strict=True):
                if strike.fault == fault:
                    self._strike(row, strike, mine)
            rows.append(row)
        return FaultAccount(
            rows=rows,
            requests=len(self._numbers),
            interrupted=self._interrupted,
            doubled=self._doubled,
            missing=begun - len(self._numbers),
        )

    def _strike(self, row: OfFault, strike: Strike, mine: list[int]) -> None:
        row.strikes += 1
        row.troubled += bool(strike.trouble)
        self._row(row, mine)
        bad = [self._due[index] for index in mine if self._kind[index] != RIGHT]
        after = [self._due[index] for index in mine if not bad or self._due[index] > max(bad)]
        if not after:
            row.unrecovered += 1
            return
        # Never below 0: what was due before the strike and hit by it is no reason to be back before it.
        back = min(after) - strike.began if bad else 0.0
        row.back_s = max(row.back_s or 0.0, back)

    def _row(self, row: OfFault, mine: list[int]) -> OfFault:
        counts = [0] * 5
        for index in mine:
            counts[self._kind[index]] += 1
        row.requests += len(mine)
        row.right += counts[RIGHT]
        row.refused += counts[REFUSED]
        row.cut += counts[CUT]
        row.lost += counts[LOST]
        row.wrong += counts[WRONG]
        times = [self._ended[index] - self._due[index] for index in mine if self._kind[index] == RIGHT]
        row.slowest_s = max([*times, *([row.slowest_s] if row.slowest_s is not None else [])], default=None)
        return row
