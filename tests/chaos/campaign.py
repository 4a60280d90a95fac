"""One fault, struck again and again while the load tester sends, and the account of every request.

Owns the schedule (seeded) and the account, made from the load tester's ledger and the networks' own log.
"""

import collections
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.faults import ledger
from loadtest.measuring.slo import nearest_rank
from loadtest.sending.traffic import read_label_file
from tests.chaos import numbers
from tests.chaos.stack import ChaosStack
from tests.support import ROOT
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

REQUEST_TIMEOUT_S: Final = 10.0
GRACE_S: Final = 1.0
"""An answer at the deadline still has to come back."""

REFUSALS: Final = frozenset({"http 503 broker_unavailable", "http 503 overloaded", "http 503 no_worker"})
"""What a service may say instead of accepting: nothing was promised, nothing is lost."""

CUT: Final = frozenset({"connection lost", "connection refused"})


@dataclass(frozen=True)
class Account:
    """What became of the requests of one campaign."""

    fault: str
    strikes: int
    requests: int
    right: int
    refused: int
    """Answered 503 at once, before anything was accepted."""
    cut: int
    """Their connection went down with the process that held it."""
    lost: dict[str, int]
    """Every other outcome than a right answer, by kind."""
    wrong: list[str]
    """What contradicts the ledger: another picture's answer, two outcomes, none."""
    executed_again: int
    """Pictures run more than once, each time counted."""
    most_executions: int
    slowest_s: float
    recovered: int
    recovered_p99_s: float | None
    """Of the answers that were run twice: they were taken from one lost worker."""
    keys_left: set[str]


def run(
    fault: str,
    strike: Callable[[ChaosStack], None],
    *,
    strikes: int,
    rate: float,
    seed: int,
    folder: Path,
    redis: RedisServer,
) -> Account:
    """Strike so often while `rate` requests a second come, distinct pictures in turn."""
    labels = numbers.write_pictures(folder / "pictures", numbers.COUNT)
    stack = ChaosStack(folder, redis, seed)
    try:
        stack.begin()
        before = stack.keys()
        sending = _send(stack.url, folder, labels, rate=rate, seed=seed)
        schedule = random.Random(seed)
        eventually(lambda: len(stack.executed()) > rate, within_s=60)
        for _ in range(strikes):
            strike(stack)
            time.sleep(schedule.uniform(0.5, 1.5))
        time.sleep(1)
        sending.send_signal(signal.SIGINT)
        assert sending.wait(timeout=60) == 130
        executed = collections.Counter(stack.executed())
        eventually(lambda: not _left(stack, before), within_s=30)
        left = _left(stack, before)
    finally:
        stack.stop()
    return _account(fault, strikes, folder, labels, executed, left)


def _left(stack: ChaosStack, before: set[str]) -> set[str]:
    return stack.keys() - before


def _send(url: str, folder: Path, labels: Path, *, rate: float, seed: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "stress_test.py"), str(folder / "pictures"), "--url", url]
    command += ["--expect", str(labels), "--ledger", str(folder / "ledger.jsonl"), "--model", numbers.MODEL]
    command += ["--rate", str(rate), "--poisson", "--seed", str(seed), "--duration", "3600"]
    command += ["--timeout", str(REQUEST_TIMEOUT_S + GRACE_S), "--json", str(folder / "figures.json")]
    with (folder / "stress_test.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _account(
    fault: str,
    strikes: int,
    folder: Path,
    labels: Path,
    executed: collections.Counter[int],
    keys_left: set[str],
) -> Account:
    proved = ledger.check(folder / "ledger.jsonl", read_label_file(str(labels)))
    lines = _lines(folder / "ledger.jsonl")
    latencies = {int(line["label"]): line["ended"] - line["due"] for line in lines if line["outcome"] == "ok"}
    # Run twice: one worker was lost. A job that meets two strikes waits for two leases.
    again = sorted(latencies[number] for number in latencies if executed[number] == 2)
    outcomes = proved.outcomes
    other = {kind: count for kind, count in outcomes.items() if kind not in REFUSALS | CUT | {"ok"}}
    return Account(
        fault=fault,
        strikes=strikes,
        requests=proved.requests,
        right=outcomes["ok"],
        refused=sum(outcomes[kind] for kind in REFUSALS),
        cut=sum(outcomes[kind] for kind in CUT),
        lost=other,
        wrong=proved.wrong,
        executed_again=sum(count - 1 for count in executed.values() if count > 1),
        most_executions=max(executed.values()),
        slowest_s=max(latencies.values()),
        recovered=len(again),
        recovered_p99_s=nearest_rank(again, 99),
        keys_left=keys_left,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:-1]]
