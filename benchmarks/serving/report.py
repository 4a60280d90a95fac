"""From the raw figures of a run to the tables and the plot.

Owns the reading of the raw figures (results.json) and the order of what is shown.
"""

import statistics
from pathlib import Path
from typing import Any, Final

from benchmarks.serving import figures, tables
from benchmarks.serving import plot as plots
from benchmarks.serving.figures import FiguresRow
from benchmarks.serving.load import Point
from benchmarks.serving.machine import QUIET_CORES

_SHOWN: Final = 32
"""Clients of the tables that show one number of them, where it was measured."""


def markdown(found: dict[str, Any]) -> str:
    """All tables, with the date and the versions."""
    limits, servers = rows(found, "points", found["limits"]), rows(found, "points", found["contenders"])
    nulls = rows(found, "null", found["contenders"])
    clients = found["plan"]["clients"]
    shown = _SHOWN if _SHOWN in clients else clients[-1]
    parts = [about(found), bare(found)]
    if limits or servers:
        parts.append(tables.throughput([*limits, *servers], clients))
        parts.append(tables.costs([*limits, *servers], limits, shown, held(found)))
    if nulls:
        parts += ["With the null engine:\n", tables.throughput(nulls, [_SHOWN])]
        parts.append(tables.costs(nulls, [], _SHOWN, {}))
    if found["headline"]:
        parts.append(headline(found))
    if found["stages"]:
        parts += ["Batchwire, stage by stage:\n", tables.stages(found["stages"])]
    parts += [
        f"{row.name}, {count} clients: {times} x {error}\n"
        for row in [*servers, *nulls]
        for count, point in row.points.items()
        for error, times in point.errors.items()
    ]
    parts += [f"{name} was skipped: {why}\n" for name, why in found["skipped"].items()]
    return "\n".join(part for part in parts if part)


def plot(found: dict[str, Any], file: Path) -> None:
    """Draw limits and servers, if there are any."""
    drawn = [*rows(found, "points", found["limits"]), *rows(found, "points", found["contenders"])]
    if drawn:
        plots.draw(drawn, found["plan"]["clients"], file)


def rows(found: dict[str, Any], part: str, of: dict[str, Any]) -> list[FiguresRow]:
    """The medians of all rounds, for the names in `of` (contenders, or limits with their decode)."""
    made = []
    for name, what in of.items():
        about = what if isinstance(what, dict) else {"decode": what, "is_peer": False}
        by_clients = found[part].get(name, {})
        points = {
            int(clients): figures.median([Point(**each) for each in rounds])
            for clients, rounds in by_clients.items()
        }
        if points:
            made.append(FiguresRow(name, about["decode"], about["is_peer"], points))
    return made


def held(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Start and memory: medians, of the second start and later ones where there are any."""
    medians = {}
    for name, rounds in found["held"].items():
        starts = [each["start_s"] for each in rounds[1:] or rounds]
        medians[name] = {
            "start_s": statistics.median(starts),
            "rss_mb": statistics.median(each["rss_mb"] for each in rounds),
            "pss_mb": statistics.median(each["pss_mb"] for each in rounds),
        }
    return medians


def about(found: dict[str, Any]) -> str:
    """One paragraph: when, where, with what."""
    machine, plan = found["machine"], found["plan"]
    rest = ("date", "cores", "load", "load afterwards")
    versions = {name: text for name, text in machine.items() if name not in rest} | found["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    loads = f"{machine['load']} before, {machine.get('load afterwards', 'unknown')} after"
    return (
        f"{machine['date']}, {machine['cores']} cores; medians of {plan['rounds']} interleaved rounds of "
        f"{plan['seconds']:g} s a point; {loads}. {listed}.\n"
    )


def bare(found: dict[str, Any]) -> str:
    """The engine alone."""
    told = [
        f"{statistics.median(each['per_s'] for each in rounds):.1f} in batches of {batch} "
        f"({statistics.median(each['cpu_ms'] for each in rounds):.1f} CPU ms)"
        for batch, rounds in found["bare"].items()
    ]
    return f"The bare engine, pictures a second: {', '.join(told)}.\n" if told else ""


def headline(found: dict[str, Any]) -> str:
    """The old pattern's own load."""
    lines = [
        [
            name,
            str(point["requests"]),
            str(point["failed"]),
            f"{point['p50_ms']:.0f}",
            f"{point['p99_ms']:.0f}{tables.DISTURBED * (point['others'] > QUIET_CORES)}",
        ]
        for name, point in found["headline"].items()
    ]
    return tables.markdown(["one request every 50 ms", "requests", "failed", "p50 ms", "p99 ms"], lines)
