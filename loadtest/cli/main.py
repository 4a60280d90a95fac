"""The program: options in, a run, its results out, an exit status.

Owns the exit status: 0 when every answer was right and the objective met, 1 when not, 2 for wrong usage,
130 when interrupted. While faults strike, a refusal or a cut connection is no failure; what is lost or wrong
is, and a strike that failed.
"""

import asyncio
import io
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from loadtest.cli import options
from loadtest.cli.options import CheckLedger, Compare, Options
from loadtest.faults import ledger
from loadtest.measuring import compare
from loadtest.measuring.caveats import caveats
from loadtest.measuring.figures import RunReport
from loadtest.output import csv_file, tables
from loadtest.output.live import LiveView
from loadtest.sending.client_pool import ClientFailed, Crew
from loadtest.sending.coordinator import Coordinator, RunSummary
from loadtest.sending.messages import LoadPlan
from loadtest.sending.model_facts import NotReady, Server
from loadtest.sending.traffic import Requests, TrafficError, read_label_file

INTERRUPTED: Final = 130


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a label that the terminal can't show must not end the run
    console = Console(highlight=False)
    try:
        match options.parse(sys.argv[1:] if arguments is None else arguments):
            case Compare() as asked:
                return _compare(asked, console)
            case CheckLedger() as asked:
                return _check_ledger(asked, console)
            case asked:
                return asyncio.run(_run(asked, console))
    except KeyboardInterrupt:
        return INTERRUPTED  # before anything was sent: later, a signal is the coordinator's
    except (NotReady, ClientFailed, OSError) as error:
        sys.stderr.write(f"stress_test.py: {error}\n")
        return 1
    except (TrafficError, compare.CompareError, ledger.LedgerError) as error:
        sys.stderr.write(f"stress_test.py: {error}\n")
        return 2


async def _run(asked: Options, console: Console) -> int:
    requests = Requests(asked.traffic)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    console.print(_heading(asked, len(requests.pictures)), soft_wrap=True, markup=False)
    async with Server(asked.target) as server:
        plan = LoadPlan(asked.target, asked.traffic, await server.counts(asked.traffic))
        async with Crew(plan, asked.processes) as crew:
            with LiveView(console) as view:
                outcome = await _coordinated(asked, crew, server, view)
    result = RunReport(
        target=asked.target.url,
        started_at=started_at,
        command=list(asked.command),
        pictures=len(requests.pictures),
        slo=asked.slo.text if asked.slo else "",
        points=outcome.points,
        conclusion=outcome.conclusion,
        interrupted=outcome.interrupted,
        warnings=[*filter(None, [server.caveat]), *caveats(outcome.points)],
        faults=outcome.faults,
    )
    unwritten = _write(asked, result)  # first: a terminal can fail, too
    tables.show(console, result)
    for complaint in unwritten:
        console.print(complaint, style="red", soft_wrap=True, markup=False)
    return _status(asked, outcome) or int(bool(unwritten))


async def _coordinated(asked: Options, crew: Crew, server: Server, view: LiveView) -> RunSummary:
    written = None
    if asked.ledger:
        written = ledger.Ledger(asked.ledger.open("wb"), start=time.monotonic(), target=asked.target.url)
    coordinator = Coordinator(asked, crew, server, view, written)
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, coordinator.interrupt)
    try:
        return await coordinator.run()
    finally:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(each)


def _heading(asked: Options, pictures: int) -> str:
    checks = {
        "predictions": "every answer's predictions are checked",
        "label": "every answer's label is checked",
        "status": "of an answer only the status is checked (no --label)",
    }
    processes = f"{asked.processes} client process{'es' if asked.processes > 1 else ''}"
    sent = f"{pictures} picture{'s' if pictures > 1 else ''}"
    return f"{asked.target.url}: {sent}, {processes}; {checks[asked.target.check]}."


def _write(asked: Options, result: RunReport) -> list[str]:
    """Write the files that were asked for; return what could not be, in words."""
    unwritten = []
    for path, write in ((asked.json, _write_json), (asked.csv, _write_csv), (asked.report, _write_report)):
        try:
            if path:
                write(path, result)
        except OSError as error:
            unwritten.append(f"{path} could not be written: {error.strerror}")
    return unwritten


def _write_json(path: Path, result: RunReport) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def _write_csv(path: Path, result: RunReport) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv_file.write(result, file)


def _write_report(path: Path, result: RunReport) -> None:
    from loadtest.output import report  # noqa: PLC0415 - matplotlib takes 0.3 s of every start

    path.write_text(report.render(result), "utf-8")


def _status(asked: Options, outcome: RunSummary) -> int:
    if outcome.interrupted:
        return INTERRUPTED
    if asked.slo:
        return int(not outcome.met or not (outcome.faults is None or outcome.faults.is_sound))
    if outcome.faults:
        return int(not outcome.faults.is_sound)
    return int(any(point.failed or point.warmup_failed or not point.requests for point in outcome.points))


def _compare(asked: Compare, console: Console) -> int:
    found = compare.compare(compare.read(asked.before), compare.read(asked.after), tolerance=asked.tolerance)
    console.print(compare.table(found))
    for worse in found.worse:
        console.print(worse, style="red", soft_wrap=True, markup=False)
    return int(bool(found.worse))


def _check_ledger(asked: CheckLedger, console: Console) -> int:
    account = ledger.check(asked.path, read_label_file(asked.expect) if asked.expect else {})
    tables.show_account(console, str(asked.path), account)
    return int(not account.adds_up)
