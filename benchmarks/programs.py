"""The programs that are measured: wrk and stress_test.py, each run on the null server, and what a run costs.

Owns starting them, and ending what it started. Compares nothing.
"""

import contextlib
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from loadtest.measuring.slo import nearest_rank

ROOT: Final = Path(__file__).resolve().parent.parent
CONNECTIONS: Final = 32

_START_UPS: Final = 3

_WRK_SCRIPT: Final = """\
function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "image/jpeg"
  wrk.body = io.open(args[1], "rb"):read("*a")
end
function done(summary, latency)
  local failed = 0
  for _, number in pairs(summary.errors) do failed = failed + number end
  print(string.format('{"requests": %d, "failed": %d, "us": %d, "p50_us": %f, "p99_us": %f}',
    summary.requests, failed, summary.duration, latency:percentile(50), latency:percentile(99)))
end
"""


class BenchmarkFailed(Exception):
    """A program that is measured did not do its work; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One program's figures in one round."""

    per_s: float
    cpu_ms: float
    """CPU milliseconds a request, of all the program's processes, without its start."""
    p50_ms: float
    p99_ms: float
    server_busy: float
    """The null server's CPU seconds a second: near 1 the server was the bound, not the client."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How exact an open loop is, and what it adds to a latency, in one round. All in milliseconds."""

    late_p50: float
    late_p99: float
    """How long after it was due a request was sent."""
    open_p50: float
    """Median latency of the open loop, from when a request was due."""
    closed_p50: float
    """The same of the load tester's closed loop with one client."""
    wrk_p50: float
    """The same of wrk with one connection."""


class Bench:
    """What every run has in common: the null server, a folder for files, the duration."""

    def __init__(
        self, folder: Path, server: psutil.Process, url: str, *, stress_test: Path, seconds: int
    ) -> None:
        self._folder = folder
        self._server = server
        self._url = url
        self._stress_test = stress_test
        self._seconds = seconds
        self._start_up_s: dict[int, float] = {}
        (folder / "post.lua").write_text(_WRK_SCRIPT)

    def wrk(self, picture: Path, connections: int = CONNECTIONS) -> Run:
        """Measure wrk with one thread."""
        script = str(self._folder / "post.lua")
        command = ["wrk", "-t1", f"-c{connections}", "-d", f"{self._seconds}s", "-s", script, self._url]
        server_s = self._server_s()
        output, cpu_s = _run([*command, "--", str(picture)])
        found = json.loads(output.splitlines()[-1])
        if found["failed"] or not found["requests"]:
            raise BenchmarkFailed(f"wrk: {found['failed']} requests failed, {found['requests']} did not")
        return Run(
            per_s=found["requests"] / found["us"] * 1e6,
            cpu_ms=cpu_s / found["requests"] * 1e3,
            p50_ms=found["p50_us"] / 1e3,
            p99_ms=found["p99_us"] / 1e3,
            server_busy=(self._server_s() - server_s) / found["us"] * 1e6,
        )

    def closed_loop(self, picture: Path, processes: int, clients: int = CONNECTIONS) -> Run:
        """Measure stress_test.py with so many clients."""
        if processes not in self._start_up_s:
            few = ["--concurrency", str(processes), "--requests", str(processes)]
            starts = [self._run_ours(picture, processes, few)[1] for _ in range(_START_UPS)]
            self._start_up_s[processes] = statistics.median(starts)
        server_s = self._server_s()
        load = ["--concurrency", str(clients), "--duration", str(self._seconds)]
        point, cpu_s = self._run_ours(picture, processes, load)
        return Run(
            per_s=point["per_s"],
            cpu_ms=(cpu_s - self._start_up_s[processes]) / point["requests"] * 1e3,
            p50_ms=point["latency_ms"]["p50"],
            p99_ms=point["latency_ms"]["p99"],
            server_busy=(self._server_s() - server_s) / point["seconds"],
        )

    def accuracy(self, picture: Path, rate: float) -> Accuracy:
        """Measure stress_test.py's open loop, and one request at a time of both programs."""
        ledger = self._folder / "ledger"
        load = ["--rate", f"{rate:g}", "--duration", str(self._seconds), "--ledger", str(ledger)]
        point, _ = self._run_ours(picture, 1, load)
        records = [each for each in map(json.loads, ledger.read_text().splitlines()) if "due" in each]
        late_ms = sorted((each["sent"] - each["due"]) * 1e3 for each in records)
        return Accuracy(
            late_p50=nearest_rank(late_ms, 50) or 0.0,
            late_p99=nearest_rank(late_ms, 99) or 0.0,
            open_p50=point["latency_ms"]["p50"],
            closed_p50=self.closed_loop(picture, processes=1, clients=1).p50_ms,
            wrk_p50=self.wrk(picture, connections=1).p50_ms,
        )

    def _run_ours(self, picture: Path, processes: int, load: list[str]) -> tuple[Any, float]:
        """Return the one point of stress_test.py's own figures, and the CPU seconds of its processes."""
        figures = self._folder / "figures.json"
        fixed = [str(picture), "--url", self._url, "--body", "raw", "--json", str(figures)]
        command = [sys.executable, str(self._stress_test), *fixed, "--processes", str(processes), *load]
        _, cpu_s = _run(command)
        return json.loads(figures.read_text())["points"][0], cpu_s

    def _server_s(self) -> float:
        times = self._server.cpu_times()
        return float(times.user + times.system)


def _run(command: list[str]) -> tuple[str, float]:
    """Return what a program wrote, and the CPU seconds of it and of all processes that it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchmarkFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@contextlib.contextmanager
def null_server() -> Iterator[tuple[psutil.Process, str]]:
    """Start the null server; give its process and the address of its route; end it."""
    command = [sys.executable, "-m", "benchmarks.null_server"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)  # noqa: S603 - ours
    with process:  # closes its stdin in the end, which ends it
        if process.stdout is None or not (port := process.stdout.readline().strip()):
            raise BenchmarkFailed("the null server did not start")
        yield psutil.Process(process.pid), f"http://127.0.0.1:{port}/null"
