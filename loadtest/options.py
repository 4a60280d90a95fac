"""The command line.

Owns every option, its default and its bounds. Reads and writes no file but to see that it can.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final
from urllib.parse import urlsplit

import jmespath
import jmespath.exceptions

from loadtest.arguments import parser as make_parser
from loadtest.messages import Load, Target, Traffic
from loadtest.slo import Slo
from loadtest.target import is_batchwire

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
    found = parser.parse_args(arguments)
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
    target = _target(found)
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
        json=found.json,
        csv=found.csv,
        report=found.report,
        ledger=found.ledger,
        command=tuple(_without_headers(arguments)),
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
    _check_target(found)
    if found.search and not (found.slo and len(loads) == 2 and loads[0].is_open):
        raise ValueError("--search needs --slo and two rates, such as --rate 10,200")
    if found.search and loads[0].value >= loads[1].value:
        raise ValueError("--search needs the lower of its two rates first, such as --rate 10,200")
    if found.poisson and found.concurrency:
        raise ValueError("--poisson is of arrivals at a rate: it has no meaning with --concurrency")
    if searches and found.requests:
        raise ValueError("a search tries each rate for a time: use --duration, not --requests")
    if found.stable is not None and found.requests:
        raise ValueError("--stable ends by time: use --duration (the longest it may take), not --requests")
    for name in ("duration", "timeout", "window"):
        if getattr(found, name) == 0:
            raise ValueError(f"--{name} must be above 0")
    if found.stable == 0:
        raise ValueError("--stable must be above 0: no two windows are quite the same")
    if searches and found.within == 0:
        raise ValueError("--within must be above 0")
    for name in ("json", "csv", "report", "ledger"):
        path = getattr(found, name)
        if path and (
            path.is_dir() or not os.access(path if path.exists() else path.absolute().parent, os.W_OK)
        ):
            raise ValueError(f"--{name} {path} can't be written: is its folder there, and yours?")


def _check_target(found: argparse.Namespace) -> None:
    """Raise ValueError for what the service that --url names would not understand."""
    names_model = is_batchwire(found.url) or "{model}" in found.url or "$model" in found.body
    if found.model != (("", 1.0),) and not names_model and found.body in {"multipart", "raw"}:
        raise ValueError(
            "--model has no place to go: write {model} into --url, or $model into a --body template"
        )
    if "{model}" in found.url and found.model == (("", 1.0),):
        raise ValueError("--url has {model}: say which with --model")
    if found.polled and not is_batchwire(found.url):
        raise ValueError("--async is for a Batchwire server: give its address alone as --url")


def _target(found: argparse.Namespace) -> Target:
    if not _is_address(found.url):
        raise ValueError(f"--url {found.url}: write http://host:port or https://host/path")
    if "@" in urlsplit(found.url).netloc:
        raise ValueError("--url may not hold a user or a password: it is written down. Use --header")
    if not found.field.isprintable():
        raise ValueError("--field has characters that no form field may have")
    headers = [tuple(part.strip() for part in header.split(":", 1)) for header in found.header]
    if any(len(header) != 2 or not header[0] for header in headers):
        raise ValueError("--header is written NAME:VALUE")
    if not all("".join(header).isprintable() and "".join(header).isascii() for header in headers):
        raise ValueError("--header has characters that no HTTP header may have")
    body = found.body
    if body not in {"multipart", "raw"}:
        try:
            body = Path(body).read_text("utf-8")
            Template(body).substitute(image_base64="", name="", model="")
            if "image_base64" not in body:
                raise ValueError("it has no $image_base64, so no picture would be sent")
        except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise ValueError(
                f"--body {found.body} is not multipart, raw or a file with a template: {error}"
            ) from error
    if found.label:
        try:
            jmespath.compile(found.label).search(None)  # only then an unknown function is told
        except jmespath.exceptions.JMESPathTypeError:
            pass  # of no answer at all: expected
        except jmespath.exceptions.JMESPathError as error:
            reason = str(error).splitlines()[0]  # without the picture of where it stands
            raise ValueError(f"--label {found.label} is no JMESPath: {reason}") from error
    check = "label" if found.label else "predictions" if is_batchwire(found.url) else "status"
    if found.expect and check == "status":
        raise ValueError("--expect needs --label: where is the label in another service's answer?")
    return Target(
        url=found.url,
        field=found.field,
        body=body,
        headers=tuple((name, value) for name, value in headers),
        check=check,
        label=found.label,
        top=found.top,
        timeout_s=found.timeout,
        connections=found.connections,
        keep_alive=not found.no_keep_alive,
    )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no IPv6 address, no port
        return False


def _without_headers(arguments: list[str]) -> list[str]:
    """The command line as it may be written down: a header can be a secret."""
    shown, hide = [], False
    for argument in arguments:
        shown.append(
            "***"
            if hide
            else argument.split("=")[0] + "=***"
            if argument.startswith("--header=")
            else argument
        )
        hide = argument == "--header"
    return shown
