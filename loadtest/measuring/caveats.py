"""What to beware of in the figures: above all, where they are the load tester's own and not the server's.

Owns those judgements and their words.
"""

import math
from collections.abc import Iterator
from typing import Final

from loadtest.cli import units
from loadtest.measuring.figures import LEAVING, NO_LOAD, REFUSED, REST, Figures

LEAVING_SHARE: Final = 0.1
"""More of the mean latency than this arose in the load tester: its figures are in doubt."""

_LEAVING_MS: Final = 1.0
_MOSTLY: Final = 0.5
_LAG_SHARE: Final = 0.1
_LAG_MS: Final = 5.0
_BUSY: Final = 0.9
_KEPT_UP: Final = 0.95

_SENDS_A_KEY: Final = "--api-key VARIABLE (or @FILE) sends"


def caveats(points: list[Figures]) -> list[str]:
    """Return a sentence for each kind of doubt, the gravest first, with the last load that it is true of."""
    found = [(kind, point.name, text) for point in points for kind, text in _of(point)]
    sentences = []
    for wanted in _ORDER:
        same = [(name, text) for kind, name, text in found if kind == wanted]
        if same:
            others = f" The same at {len(same) - 1} more." if len(same) > 1 else ""
            sentences.append(f"{same[-1][0]}: {same[-1][1]}{others}")
    return sentences


_ORDER: Final = (
    "refused", "nothing", "limit", "busy", "behind", "given up", "interrupted", "connections", "late",
    "clock", "unstable", "warm-up",
)  # fmt: skip


def is_own_limit(point: Figures) -> bool:
    """Whether the load tester, not the server, made the latencies what they are."""
    if not point.load.is_open or point.client.queued:
        return False
    return point.leaving_share > LEAVING_SHARE and point.stages_ms.get(LEAVING, 0.0) > _LEAVING_MS


def is_tester_in_doubt(point: Figures) -> bool:
    """Whether the load tester may have made the point's latencies what they are."""
    return any(_of_the_tester(point))


def _of(point: Figures) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) pairs for one point."""
    yield from _of_the_tester(point)
    refusal = _refusal(point)
    if refusal:
        which = "another key" if "http 403" in refusal else "a key"  # 403: this one may not ask that
        yield "refused", f"{refusal} {_SENDS_A_KEY} {which}."
        return
    if not point.requests:
        yield "nothing", "nothing was measured: the warm-up took all the time."
        return
    offered = point.load.value
    if point.load.is_open and not point.given_up and not point.interrupted and point.per_s is not None:
        # Poisson arrivals scatter: three standard deviations are no falling behind.
        least = offered * _KEPT_UP - (3 * (offered / point.seconds) ** 0.5 if point.load.poisson else 0.0)
        if point.per_s < least:
            yield "behind", _behind(point, point.per_s, least)
    if point.given_up:
        yield "given up", f"{point.given_up}: ended early."
    if point.interrupted:
        yield "interrupted", f"{point.interrupted} requests were unfinished, and are in no figure."
    if point.client.queued and point.load.is_open:
        text = f"{point.client.queued} requests waited for a free connection; the wait counts as latency."
        yield "connections", f"{text} --connections allows more."
    told_ms = sum(ms for stage, ms in point.stages_ms.items() if stage not in {LEAVING, REST})
    if REST in point.stages_ms and told_ms > (point.latency_ms["mean"] or math.inf):
        yield "clock", "the server's stages add up to more than the latency: its clock is wrong."
    if point.stable is False:
        yield "unstable", "the load never became stable: the figures are of all of it."
    if point.warmup_failed:
        yield "warm-up", f"{point.warmup_failed} requests of the warm-up failed."


def _behind(point: Figures, per_s: float, least: float) -> str:
    """Why fewer than `least` a second were answered correctly: too slow, or answered otherwise."""
    offered = f"{units.shown(point.load.value)}/s were sent"
    wrong = {kind: errors for kind, errors in point.errors.items() if kind.startswith(NO_LOAD)}
    wrong_per_s = sum(errors.count for errors in wrong.values()) / point.seconds
    if wrong and per_s + wrong_per_s >= least:
        kind, errors = max(wrong.items(), key=lambda each: each[1].count)
        about = (
            f"{units.shown(wrong_per_s)}/s failed in a way that no load explains ({kind}: {errors.example})"
        )
        return f"the service kept up: {offered}, {about}."
    return f"the service did not keep up: {offered}, {units.shown(per_s)}/s answered correctly."


def _refusal(point: Figures) -> str:
    """A sentence where every request was refused for its key; else empty."""
    if any(kind in point.given_up for kind in REFUSED):
        return f"{point.given_up}: ended early."
    if point.right or not point.errors or not all(kind.startswith(REFUSED) for kind in point.errors):
        return ""
    kind, errors = next(iter(point.errors.items()))
    return f"every request was refused ({kind}: {errors.example})."


def _of_the_tester(point: Figures) -> Iterator[tuple[str, str]]:
    mean, busy = point.latency_ms["mean"] or 0.0, point.client.busy
    leaving = point.stages_ms.get(LEAVING, 0.0)
    advice = f"use --processes {point.client.processes * 2}, or a separate machine."
    if is_own_limit(point):
        text = f"{units.shown(leaving)} of {units.shown(mean)} ms arose in the load tester"
        whose = "" if point.leaving_share < _MOSTLY else ": this is its limit, not the server's"
        yield "limit", f"{text}{whose}; {advice}"
    elif busy > _BUSY:
        yield "busy", f"the load tester had no spare CPU ({busy:.0%} of a core): {advice}"
    elif point.client.lag_ms[1] > max(_LAG_MS, (mean - leaving) * _LAG_SHARE):
        lag = units.shown(point.client.lag_ms[1])
        yield "late", f"the load tester woke up to {lag} ms late (p99): its machine is short of CPU."
