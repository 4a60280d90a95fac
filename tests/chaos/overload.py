"""Three times what the model can do, for a while: what is refused, what is answered, what it costs.

Owns that one campaign and its figures. The capacity is measured first, by a closed loop, in the same run.
"""

import collections
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos import numbers
from tests.chaos.stack import ChaosStack
from tests.chaos.watch import Watch
from tests.support import ROOT
from tests.support.redis_server import RedisServer

TIMES: Final = 3
_SLOW_S: Final = 0.1
_CLIENTS: Final = 64
"""Enough to keep both model servers' batches full, few enough that none is refused."""


@dataclass(frozen=True)
class Account:
    """What became of a load of TIMES the capacity."""

    best_per_s: float
    """Right answers a second of the closed loop before it."""
    offered_per_s: float
    accepted_per_s: float
    """Right answers a second under overload."""
    requests: int
    outcomes: dict[str, int]
    median_refusal_ms: float
    p99_refusal_ms: float
    slowest_answer_s: float
    executed_in_vain: int
    """Pictures that a network ran without a right answer coming of it."""
    unhealthy: int
    """Probes of /healthz that were not green."""
    probes: int
    memory_mb: dict[str, tuple[float, float]]
    """Resident memory of each kind of process: before, and the most seen."""


def run(*, seconds: float, folder: Path, redis: RedisServer) -> Account:
    """Measure the capacity, then press TIMES as hard for so long."""
    labels = numbers.write_pictures(folder / "pictures")
    stack = ChaosStack(folder, redis, seed=1)
    stack.environment["BATCH_SIZE"] = "4"
    try:
        stack.begin()
        best = send(stack, folder, labels, "best", "--concurrency", str(_CLIENTS), "--duration", "5")
        ran_before = len(stack.executed())
        rate = best["per_s"] * TIMES
        watch = Watch(stack, redis)
        load = ["--rate", f"{rate:.0f}", "--duration", str(seconds), "--warmup", "0"]
        figures = send(stack, folder, labels, "overload", *load)
        watch.stop()
        executed = len(stack.executed()) - ran_before
    finally:
        stack.stop()
    lines = [json.loads(line) for line in (folder / "overload.jsonl").read_text().splitlines()[1:-1]]
    refusals = sorted((each["ended"] - each["due"]) * 1000 for each in lines if each["status"] == 503)
    answers = [each["ended"] - each["due"] for each in lines if each["outcome"] == "ok"]
    return Account(
        best_per_s=best["per_s"],
        offered_per_s=rate,
        accepted_per_s=len(answers) / seconds,
        requests=len(lines),
        outcomes=dict(collections.Counter(each["outcome"] for each in lines)),
        median_refusal_ms=statistics.median(refusals),
        p99_refusal_ms=refusals[len(refusals) * 99 // 100],
        slowest_answer_s=max(answers),
        executed_in_vain=executed - figures["right"],
        unhealthy=watch.unhealthy,
        probes=watch.probes,
        memory_mb=watch.memory_mb(),
    )


@dataclass(frozen=True)
class SlowAccount:
    """What became of a crowd that comes back as soon as it is refused, before a network that computes."""

    best_per_s: float
    """Right answers a second of a few clients before it."""
    right_per_s: float
    """And of the crowd."""
    outcomes: dict[str, int]
    median_answer_s: float
    executed_in_vain: int
    web_cpu_s: float
    model_cpu_s: float


def slow(*, seconds: float, folder: Path, redis: RedisServer, clients: int = 512) -> SlowAccount:
    """Have a crowd press a network of _SLOW_S of the processor a picture, for so long."""
    labels = numbers.write_pictures(folder / "pictures")
    stack = ChaosStack(folder, redis, seed=1, batch_s=0.0, work_s=_SLOW_S)
    try:
        stack.begin()
        best = send(stack, folder, labels, "best", "--concurrency", "16", "--duration", "10")
        ran_before, cpu_before = len(stack.executed()), stack.cpu_s()
        load = ["--concurrency", str(clients), "--duration", str(seconds), "--warmup", "0"]
        figures = send(stack, folder, labels, "crowd", *load)
        cpu = stack.cpu_s()
        executed = len(stack.executed()) - ran_before
    finally:
        stack.stop()
    lines = [json.loads(line) for line in (folder / "crowd.jsonl").read_text().splitlines()[1:-1]]
    answers = [each["ended"] - each["due"] for each in lines if each["outcome"] == "ok"]
    return SlowAccount(
        best_per_s=best["per_s"],
        right_per_s=len(answers) / seconds,
        outcomes=dict(collections.Counter(each["outcome"] for each in lines)),
        median_answer_s=statistics.median(answers),
        executed_in_vain=executed - figures["right"],
        web_cpu_s=cpu["web"] - cpu_before["web"],
        model_cpu_s=cpu["model servers"] - cpu_before["model servers"],
    )


def send(stack: ChaosStack, folder: Path, labels: Path, name: str, *load: str) -> dict[str, Any]:
    """Run the load tester; return the figures of its one point. Its ledger is NAME.jsonl."""
    command = [sys.executable, str(ROOT / "stress_test.py"), str(folder / "pictures"), "--url", stack.url]
    command += ["--expect", str(labels), "--model", numbers.MODEL, "--json", str(folder / f"{name}.json")]
    command += ["--ledger", str(folder / f"{name}.jsonl"), "--warmup", "1", *load]
    with (folder / f"{name}.log").open("wb") as log:
        subprocess.run(command, stdout=log, stderr=log, check=False)  # refusals are failures to it
    return dict(json.loads((folder / f"{name}.json").read_text())["points"][0])
