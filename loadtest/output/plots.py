"""The report's plots: what each of them shows, and the text that says the same.

Owns the choice of figures that are drawn. Their look is plot_style.py's; must draw no words from outside.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from matplotlib import rc_context

from loadtest.cli.units import shown
from loadtest.measuring.figures import Figures
from loadtest.output import plot_style
from loadtest.output.plot_style import STYLE, Plot

_MOST_STEPS: Final = 240


@rc_context(STYLE)
def curve(points: Sequence[Figures]) -> Plot | None:
    """Draw latency against throughput, a mark for each load not given up; None for fewer than two."""
    found = sorted(
        (point.load.value, point.per_s, p50, p99, point.load.name)
        for point in points
        if point.per_s is not None
        and not point.given_up
        and (p50 := point.latency_ms.get("p50")) is not None
        and (p99 := point.latency_ms.get("p99")) is not None
    )
    if len(found) < 2:
        return None
    _, rates, p50s, p99s, names = zip(*found, strict=True)
    figure = plot_style.new_figure(270)
    axes = figure.subplots()
    axes.set(xlabel="right answers a second", xlim=(0, max(*rates, 0.001) * 1.2))
    plot_style.plain_ticks(axes.xaxis)
    plot_style.line(axes, "p50", rates, p50s)
    plot_style.line(axes, "p99", rates, p99s)
    plot_style.latency_scale(axes, [*p50s, *p99s])
    plot_style.names(axes, list(zip(rates, p99s, names, strict=True)))
    plot_style.legend(axes)
    each = (
        f"{name}: {shown(rate)} a second, p50 {shown(p50)} ms, p99 {shown(p99)} ms"
        for _, rate, p50, p99, name in found
    )
    return plot_style.finished(figure, "Latency against throughput", f"By load: {'; '.join(each)}.", "curve")


@rc_context(STYLE)
def of_point(point: Figures, salt: str) -> list[Plot]:
    """Draw one point; what it has no figures for is left out. `salt` differs from point to point."""
    plots = (each(point, salt) for each in (_histogram, _over_time, _queue, _batch_sizes))
    return [plot for plot in plots if plot]


def _histogram(point: Figures, salt: str) -> Plot | None:
    bins = point.histogram
    if not bins:
        return None
    figure = plot_style.new_figure(270)
    axes = figure.subplots()
    axes.set(xlabel="ms", xscale="log", xlim=(bins[0].from_ms / 1.05, bins[-1].to_ms * 1.05))
    widths = [each.to_ms - each.from_ms for each in bins]
    plot_style.bars(axes, [each.from_ms for each in bins], [each.count for each in bins], widths)
    plot_style.plain_ticks(axes.xaxis)
    for name in ("p50", "p95", "p99"):
        if (value := point.latency_ms.get(name)) is not None:
            plot_style.upright(axes, name, value, f"{name} {shown(value)}")
    plot_style.legend(axes)
    text = ", ".join(
        f"{name} {shown(point.latency_ms.get(name))} ms" for name in ("p50", "p95", "p99", "max")
    )
    return plot_style.finished(figure, "Latency", f"{point.right} latencies, {point.name}: {text}.", salt)


def _over_time(point: Figures, salt: str) -> Plot | None:
    slices = point.over_time
    if not slices:
        return None
    at, rates = [each.at_s for each in slices], [each.per_s for each in slices]
    p50s, p99s = [_known(each.p50_ms) for each in slices], [_known(each.p99_ms) for each in slices]
    figure = plot_style.new_figure(270)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    plot_style.line(above, "p50", at, p50s)
    plot_style.line(above, "p99", at, p99s)
    plot_style.latency_scale(above, [*p50s, *p99s])
    plot_style.area(below, at, rates, "answers a second")
    below.set(xlabel="seconds from the start", ylim=(0, max(*rates, 0.001) * 1.35), xlim=(0, at[-1] + at[0]))
    if failed := [each.at_s for each in slices if each.failed]:
        plot_style.crosses(below, failed, "requests failed")
    struck = [each.began for each in point.strikes]
    plot_style.strikes(above, struck, "strike")
    plot_style.strikes(below, struck)
    plot_style.plain_ticks(below.xaxis)
    plot_style.plain_ticks(below.yaxis, most=3)
    plot_style.legend(above)
    plot_style.legend(below)
    text = f"p50 {_range(p50s)} ms, p99 {_range(p99s)} ms, {_range(rates)} answers a second"
    text += f", {sum(each.failed for each in slices)} failed"
    if struck:
        text += f", struck at {', '.join(map(shown, struck))} s"
    return plot_style.finished(figure, "Over time", f"Over time, {point.name}: {text}.", salt)


def _queue(point: Figures, salt: str) -> Plot | None:
    if not point.queue:
        return None
    # Thinned out by the largest of each part: a short jam must stay visible.
    step = math.ceil(len(point.queue) / _MOST_STEPS)
    parts = [point.queue[start : start + step] for start in range(0, len(point.queue), step)]
    at, jobs = [part[0][0] for part in parts], [max(jobs for _, jobs in part) for part in parts]
    figure = plot_style.new_figure(170, head=10)
    axes = figure.subplots()
    plot_style.area(axes, at, jobs, "")
    axes.set(xlabel="seconds from the start", ylabel="jobs", ylim=(0, max(*jobs, 1) * 1.15))
    axes.set_xlim(0, max(at[-1], 0.001) * 1.02)
    plot_style.strikes(axes, [each.began for each in point.strikes])
    plot_style.plain_ticks(axes.xaxis)
    plot_style.plain_ticks(axes.yaxis, whole=True)
    mean = shown(fmean(jobs for _, jobs in point.queue))
    text = f"Jobs waiting at the server, {point.name}: {mean} on average, {max(jobs)} at most."
    return plot_style.finished(figure, "Queue at the server", text, salt)


def _batch_sizes(point: Figures, salt: str) -> Plot | None:
    if not point.batch_sizes:
        return None
    sizes, answers = list(point.batch_sizes), list(point.batch_sizes.values())
    figure = plot_style.new_figure(170, head=10)
    axes = figure.subplots()
    plot_style.bars(axes, [size - 0.4 for size in sizes], answers, [0.8] * len(sizes))
    axes.set(xlabel="size of the batch that an answer was part of", xlim=(0, max(sizes) + 1))
    plot_style.plain_ticks(axes.xaxis, whole=True)
    text = f"{shown(fmean(sizes, answers))} on average, from {min(sizes)} to {max(sizes)}"
    return plot_style.finished(figure, "Batch sizes", f"Batch sizes, {point.name}: {text}.", salt)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if math.isfinite(value)]
    return f"{shown(min(known))} to {shown(max(known))}" if known else "-"
