"""One fault, struck again and again while the load tester sends, and the account of every request.

Owns the schedule (seeded) and the account, made from the load tester's ledger and the networks' own log.
"""

import collections
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from loadtest.faults import ledger
from loadtest.measuring.slo import nearest_rank
from loadtest.sending.traffic import read_label_file
from tests.chaos import hosts, numbers
from tests.chaos.hosts import HostsStack
from tests.chaos.stack import ChaosStack
from tests.support import ROOT
from tests.support.network import Network
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

REQUEST_TIMEOUT_S: Final = 10.0
GRACE_S: Final = 1.0
"""An answer at the deadline still has to come back."""

REFUSALS: Final = frozenset({"http 503 broker_unavailable", "http 503 overloaded", "http 503 no_worker"})
"""What a service may say instead of accepting: nothing was promised, nothing is lost."""

CUT: Final = frozenset({"connection lost", "connection refused"})


_Stack = TypeVar("_Stack", bound=ChaosStack)


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
    pictures: int = numbers.COUNT,
) -> Account:
    """Strike a stack of its own so often; see `strike_under_load`."""
    stack = ChaosStack(folder, redis, seed)
    try:
        stack.begin()
        return strike_under_load(
            fault, strike, stack, strikes=strikes, rate=rate, seed=seed, folder=folder, pictures=pictures
        )
    finally:
        stack.stop()


def run_on_hosts(
    fault: str, strike: Callable[[HostsStack], None], *, strikes: int, rate: float, seed: int, folder: Path
) -> Account:
    """The same with hosts on a network of their own, which needs root."""
    with Network(hosts.HOSTS) as network, hosts.redis_on(network) as redis:
        stack = HostsStack(folder, network, redis, seed)
        try:
            stack.begin()
            return strike_under_load(
                fault, strike, stack, strikes=strikes, rate=rate, seed=seed, folder=folder
            )
        finally:
            stack.stop()


def strike_under_load(
    fault: str,
    strike: Callable[[_Stack], None],
    stack: _Stack,
    *,
    strikes: int,
    rate: float,
    seed: int,
    folder: Path,
    pictures: int = numbers.COUNT,
) -> Account:
    """Strike so often while `rate` requests a second come, distinct pictures in turn.

    Each address of the stack gets its share of the requests, with pictures of its own.
    """
    before = stack.keys()
    stack.executions.write_bytes(b"")
    of = len(stack.urls)
    loads = [
        _Load(url, folder / f"load-{share}", range(share, pictures, of), rate=rate / of, seed=seed + share)
        for share, url in enumerate(stack.urls)
    ]
    schedule = random.Random(seed)
    try:
        eventually(lambda: all(load.ledger.exists() for load in loads), within_s=60)
        eventually(lambda: len(stack.executed()) > rate, within_s=60)
        for _ in range(strikes):
            strike(stack)
            time.sleep(schedule.uniform(0.5, 1.5))
        time.sleep(1)
    finally:
        for load in loads:
            load.end()
    executed = collections.Counter(stack.executed())
    with contextlib.suppress(AssertionError):  # the account says which were left
        eventually(lambda: not stack.keys() - before, within_s=30)
    return _account(fault, strikes, loads, executed, stack.keys() - before)


class _Load:
    """A load tester that sends these pictures to one address until it is ended, and keeps a ledger."""

    def __init__(self, url: str, folder: Path, which: range, *, rate: float, seed: int) -> None:
        self.labels = numbers.write_pictures(folder / "pictures", which)
        self.ledger = folder / "ledger.jsonl"
        command = [sys.executable, str(ROOT / "stress_test.py"), str(folder / "pictures"), "--url", url]
        command += ["--expect", str(self.labels), "--ledger", str(self.ledger), "--model", numbers.MODEL]
        command += ["--rate", str(rate), "--poisson", "--seed", str(seed), "--duration", "3600"]
        command += ["--timeout", str(REQUEST_TIMEOUT_S + GRACE_S), "--json", str(folder / "figures.json")]
        with (folder / "stress_test.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self) -> None:
        """Send nothing more, and wait for what was sent."""
        self._process.send_signal(signal.SIGINT)
        try:
            assert self._process.wait(timeout=60) == 130
        finally:
            self._process.kill()
            self._process.wait()


def _account(
    fault: str,
    strikes: int,
    loads: list[_Load],
    executed: collections.Counter[int],
    keys_left: set[str],
) -> Account:
    proved = [ledger.check(load.ledger, read_label_file(str(load.labels))) for load in loads]
    lines = [line for load in loads for line in _lines(load.ledger)]
    latencies = {int(line["label"]): line["ended"] - line["due"] for line in lines if line["outcome"] == "ok"}
    # Run twice: one worker was lost. A job that meets two strikes waits for two leases.
    again = sorted(latencies[number] for number in latencies if executed[number] == 2)
    outcomes = sum((each.outcomes for each in proved), collections.Counter[str]())
    other = {kind: count for kind, count in outcomes.items() if kind not in REFUSALS | CUT | {"ok"}}
    return Account(
        fault=fault,
        strikes=strikes,
        requests=sum(each.requests for each in proved),
        right=outcomes["ok"],
        refused=sum(outcomes[kind] for kind in REFUSALS),
        cut=sum(outcomes[kind] for kind in CUT),
        lost=other,
        wrong=[text for each in proved for text in each.wrong],
        executed_again=sum(count - 1 for count in executed.values() if count > 1),
        most_executions=max(executed.values()),
        slowest_s=max(latencies.values()),
        recovered=len(again),
        recovered_p99_s=nearest_rank(again, 99),
        keys_left=keys_left,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()[1:-1]]
