"""One load on one contender: stress_test.py's own figures, and what the contender spent on it.

Owns the load tester's command line and the reading of its JSON. Every contender gets the same.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.programs import ROOT, BenchmarkFailed
from benchmarks.serving.contenders import Contender
from benchmarks.serving.machine import Others
from benchmarks.serving.running import Running


@dataclass(frozen=True, slots=True)
class Point:
    """What one load gave. Milliseconds; `cpu_ms` a request, by kind of process."""

    per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int
    cpu_ms: dict[str, float]
    errors: dict[str, int] = field(default_factory=dict)
    """What failed, by kind."""
    others: float = 0.0
    """Cores that other programs took meanwhile: they spoil the figures."""


def closed(clients: int, seconds: float) -> list[str]:
    """So many clients for so long."""
    return ["--concurrency", str(clients), "--duration", f"{seconds:g}s"]


def headline(requests: int) -> list[str]:
    """The old pattern's own stress test: one request every 50 ms."""
    return ["--rate", "20", "--requests", str(requests)]


def run(contender: Contender, running: Running, pictures: list[Path], load: list[str], folder: Path) -> Point:
    """Put the load on it. Raises BenchmarkFailed when the load tester itself can't go on."""
    figures = folder / "load.json"
    figures.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "stress_test.py"), *map(str, pictures), "--url", running.url]
    command += ["--timeout", "30s", "--json", str(figures), *_body(contender, folder), *load]
    others, before = Others(), running.cpu_s()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    after = running.cpu_s()
    if not figures.exists():
        raise BenchmarkFailed(f"{contender.name}: {(done.stderr or done.stdout).strip()[-500:]}")
    spent = {kind: after[kind] - before[kind] for kind in before}
    told = point(json.loads(figures.read_text())["points"][0], spent)
    return replace(told, others=others.cores(sum(spent.values())))


def point(told: dict[str, Any], spent_s: dict[str, float]) -> Point:
    """stress_test.py's own account of one load, with the CPU seconds that were spent meanwhile."""
    requests = told["requests"] + told["warmup_requests"]
    cpu_ms = {kind: seconds / requests * 1e3 for kind, seconds in spent_s.items()} if requests else {}
    if told["client"]["cpu_ms_per_request"] is not None:
        cpu_ms["client"] = told["client"]["cpu_ms_per_request"]
    latency = told["latency_ms"]
    return Point(
        per_s=told["per_s"] or 0.0,
        p50_ms=latency["p50"] or float("nan"),
        p99_ms=latency["p99"] or float("nan"),
        requests=told["requests"],
        failed=told["failed"],
        cpu_ms=cpu_ms,
        errors={f"{kind}: {each['example']}": each["count"] for kind, each in told["errors"].items()},
    )


def _body(contender: Contender, folder: Path) -> list[str]:
    if contender.body == "multipart":
        return ["--field", contender.field]
    if contender.body == "raw":
        return ["--body", "raw"]
    (folder / "body.json").write_text(contender.body)
    return ["--body", str(folder / "body.json")]
