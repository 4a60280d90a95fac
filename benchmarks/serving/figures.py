"""From the rounds' figures to those that are shown: medians, and ratios to the limit and to the best other.

Pure: measures nothing, draws nothing.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.serving.load import Point
from benchmarks.serving.machine import QUIET_CORES


@dataclass(frozen=True, slots=True)
class FiguresRow:
    """A contender in the table: its name, which limit it has, its points by number of clients."""

    name: str
    decode: str
    is_peer: bool
    points: dict[int, Point]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One throughput over another. It says nothing where other programs spoiled either (`is_disturbed`)."""

    value: float
    is_disturbed: bool


def median(rounds: Sequence[Point]) -> Point:
    """One point of several: medians of those that others did not spoil; failures are added up."""
    every, rounds = rounds, undisturbed(rounds)
    kinds = [kind for kind in rounds[0].cpu_ms if all(kind in each.cpu_ms for each in rounds)]
    failures = {kind for each in every for kind in each.errors}
    return Point(
        per_s=statistics.median(each.per_s for each in rounds),
        p50_ms=statistics.median(each.p50_ms for each in rounds),
        p99_ms=statistics.median(each.p99_ms for each in rounds),
        requests=sum(each.requests for each in rounds),
        failed=sum(each.failed for each in every),
        errors={kind: sum(each.errors.get(kind, 0) for each in every) for kind in sorted(failures)},
        others=statistics.median(each.others for each in rounds),
        cpu_ms={kind: statistics.median(each.cpu_ms[kind] for each in rounds) for kind in kinds},
    )


def undisturbed(rounds: Sequence[Point]) -> Sequence[Point]:
    """Those during which other programs took little; where there is none, the least disturbed."""
    quiet = [each for each in rounds if each.others <= QUIET_CORES]
    return quiet or [min(rounds, key=lambda each: each.others)]


def to_limit(row: FiguresRow, limits: Iterable[FiguresRow], clients: int) -> Ratio | None:
    """Its throughput, as a share of what the limit with the same decode gives to as many clients."""
    same = (limit for limit in limits if limit.decode == row.decode)
    return _ratio(row, next(same, None), clients)


def to_best_other(row: FiguresRow, rows: Iterable[FiguresRow], clients: int) -> Ratio | None:
    """Its throughput, in times that of the best peer other than itself, at as many clients."""
    others = [each for each in rows if each.is_peer and clients in each.points and each.name != row.name]
    return _ratio(row, max(others, key=lambda each: each.points[clients].per_s, default=None), clients)


def _ratio(row: FiguresRow, other: FiguresRow | None, clients: int) -> Ratio | None:
    if other is None or clients not in row.points or clients not in other.points:
        return None
    point, base = row.points[clients], other.points[clients]
    is_disturbed = max(point.others, base.others) > QUIET_CORES
    return Ratio(point.per_s / base.per_s, is_disturbed) if base.per_s else None


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The order of a round: each begins with another, so that drift favours nobody."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]
