"""The command line.

Owns every option, its default and its bounds. Reads and writes no file but to see that it can.
"""

import argparse
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.cli import target_options
from loadtest.cli.arguments import parser as make_parser
from loadtest.measuring.slo import Slo
from loadtest.sending.messages import Load, Target, Traffic

_SWEEP_S: Final = 10.0
_SWEEP_WARM_UP_S: Final = 1.0
_PATTERN_RATE: Final = 20.0
_PATTERN_REQUESTS: Final = 500


@dataclass(frozen=True, slots=True)
class Options:
    """What one run does."""

    target: Target
    traffic: Traffic
    loads: tuple[Load, ...]
    """The points in their order; for a search the bounds of the rate, or nothing."""
    requests: int | None
    duration_s: float | None
    warmup_s: float
    stable: float | None
    """End a point once three windows agree within this share; None: not before its time."""
    window_s: float
    slo: Slo | None
    searches: bool
    within: float
    poisson: bool
    processes: int
    faults: tuple[str, ...]
    """The commands that strike in turn."""
    every_s: float
    json: Path | None
    csv: Path | None
    report: Path | None
    ledger: Path | None
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare two runs."""

    before: Path
    after: Path
    tolerance: float


@dataclass(frozen=True, slots=True)
class CheckLedger:
    """Prove a ledger."""

    path: Path
    expect: str


def parse(arguments: list[str]) -> Options | Compare | CheckLedger:
    """Read the command line; exits with status 2 and a sentence on wrong usage."""
    parser = make_parser()
    # Options may stand between files. Of what follows `--`, argparse of Python 3.11 then takes nothing.
    is_mixed = "--" not in arguments
    found = parser.parse_intermixed_args(arguments) if is_mixed else parser.parse_args(arguments)
    if found.compare:
        before, after = found.compare
        return Compare(before, after, found.tolerance)
    if found.check_ledger:
        return CheckLedger(found.check_ledger, found.expect)
    try:
        return _options(found, arguments)
    except ValueError as error:
        parser.error(str(error))


def _options(found: argparse.Namespace, arguments: list[str]) -> Options:
    searches = found.search or bool(found.slo and not found.rate and not found.concurrency)
    loads = _loads(found, searches)
    several = searches or len(loads) > 1
    if found.requests is None and found.duration is None:
        timed = several or found.stable is not None
        found.requests = None if timed else _PATTERN_REQUESTS
        found.duration = (60.0 if found.stable is not None else _SWEEP_S) if timed else None
    if found.warmup is None:
        found.warmup = _SWEEP_WARM_UP_S if several else 0.0
    target = target_options.target(found)
    _check(found, searches, loads)
    duration = None if found.duration is None else found.duration + found.warmup
    return Options(
        target=target,
        traffic=Traffic(
            paths=tuple(os.path.abspath(path) for path in found.paths),
            draw=found.draw,
            draw_count=found.draw_count,
            models=found.model,
            polled=found.polled,
            expect=os.path.abspath(found.expect) if found.expect else "",
            seed=found.seed,
        ),
        loads=loads,
        requests=found.requests,
        duration_s=duration,
        warmup_s=found.warmup,
        stable=found.stable,
        window_s=found.window,
        slo=found.slo,
        searches=searches,
        within=found.within,
        poisson=found.poisson,
        processes=found.processes or min(4, max(1, (os.cpu_count() or 1) // 2)),
        faults=tuple(found.fault),
        every_s=found.every,
        json=found.json,
        csv=found.csv,
        report=found.report,
        ledger=found.ledger,
        command=tuple(target_options.without_headers(arguments)),
    )


def _loads(found: argparse.Namespace, searches: bool) -> tuple[Load, ...]:
    if found.concurrency:
        if any(clients != int(clients) or clients > found.connections for clients in found.concurrency):
            raise ValueError(f"--concurrency takes whole numbers up to --connections ({found.connections})")
        return tuple(Load(clients, is_open=False) for clients in found.concurrency)
    rates = found.rate or (() if searches else (_PATTERN_RATE,))
    return tuple(Load(rate, is_open=True, poisson=found.poisson) for rate in rates)


def _check(found: argparse.Namespace, searches: bool, loads: tuple[Load, ...]) -> None:
    """Raise ValueError for options that contradict each other or that can't be carried out."""
    target_options.check(found)
    if found.search and not (found.slo and len(loads) == 2 and loads[0].is_open):
        raise ValueError("--search needs --slo and two rates, for example --rate 10,200")
    if found.search and loads[0].value >= loads[1].value:
        raise ValueError("--search needs the lower of its two rates first, for example --rate 10,200")
    if found.poisson and found.concurrency:
        raise ValueError("--poisson is for arrivals at a rate: it has no effect with --concurrency")
    if searches and found.requests:
        raise ValueError("a search tries each rate for a time: use --duration, not --requests")
    if found.stable is not None and found.requests:
        raise ValueError("--stable ends by time: use --duration (the longest it may take), not --requests")
    _check_faults(found, searches)
    for name in ("duration", "timeout", "window", "every"):
        if getattr(found, name) == 0:
            raise ValueError(f"--{name} must be above 0")
    if found.stable == 0:
        raise ValueError("--stable must be above 0: no two windows are exactly the same")
    if searches and found.within == 0:
        raise ValueError("--within must be above 0")
    for name in ("json", "csv", "report", "ledger"):
        path = getattr(found, name)
        if path and (
            path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK)
        ):
            raise ValueError(f"--{name} {path} can't be written. Its folder must exist and be writable")


def _check_faults(found: argparse.Namespace, searches: bool) -> None:
    """Raise ValueError for a command that can't be started, and where faults would spoil the result."""
    if found.fault and (searches or found.stable is not None):
        raise ValueError("--fault disturbs the load: it excludes a search (--slo needs a rate) and --stable")
    for command in found.fault:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"--fault {command}: {str(error).lower()}") from error
        if not words or not shutil.which(words[0]):
            raise ValueError(f"--fault {command}: program not found. Shell syntax needs sh -c")
    if len(set(found.fault)) < len(found.fault):
        raise ValueError("--fault has the same command twice: the commands run in turn anyway")
