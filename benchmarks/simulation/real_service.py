"""The real service with a network that takes a known time, a load on it, and what was seen of both.

Owns the processes: Redis, Gunicorn, model servers, the load tester. Compares nothing.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.simulation.sleeper import CLASSES
from settings import PROJECT
from tests.support.redis_server import running_redis
from tests.support.stack import START_S, Stack
from tests.support.waiting import eventually

MODEL: Final = "sleeper"

_MODEL_TOML: Final = """\
task = "classification"
labels = "labels.txt"
top = 1

[source]
kind = "keras_file"
file = "none.keras"

[input]
width = {width}
height = {height}
channels = {channels}
fit = "stretch"
normalise = "none"
"""

_LEARN_S: Final = 3.0
"""Each web process learns of a model within two seconds of its own."""


class LoadFailed(Exception):
    """The load tester, or a process of the service, did not do its work; the text says why."""


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of a processor, since the processes began."""

    web_s: float
    redis_s: float
    """Redis' main thread alone, which is what bounds it."""
    model_server_s: float


@dataclass(frozen=True, slots=True)
class RealRequest:
    """A picture as the load tester saw it: seconds from the run's beginning."""

    due: float
    ended: float
    status: int


@dataclass(frozen=True, slots=True)
class RealLoad:
    """One load."""

    requests: list[RealRequest]
    calls: list[tuple[float, int]]
    """When each call of the network began, in seconds from the first, and its pictures."""


class RealService:
    """The running service."""

    def __init__(self, stack: Stack, redis_pid: int) -> None:
        self._stack = stack
        self._redis_pid = redis_pid
        self._web: psutil.Process | None = None
        self._model_servers: list[psutil.Process] = []
        self._log = stack.folder / "calls"
        self._log.touch()

    def start(self, speed: str, model_servers: int) -> None:
        """Start the processes and wait until they answer."""
        self._web = psutil.Process(self._stack.start_web().pid)
        self._start_model_servers(speed, model_servers)

    def change_speed(self, speed: str) -> None:
        """Replace the model servers by as many with such a network."""
        leaving, self._model_servers = self._model_servers, []
        for process in leaving:
            process.terminate()
        psutil.wait_procs(leaving, timeout=START_S)
        eventually(lambda: not self._stack.ready_workers(), within_s=START_S)
        self._start_model_servers(speed, len(leaving))

    def _start_model_servers(self, speed: str, model_servers: int) -> None:
        for _ in range(model_servers):
            process = self._stack.start(
                "benchmarks.simulation.sleeper", speed, str(self._log), log="model_server"
            )
            self._model_servers.append(psutil.Process(process.pid))
        eventually(lambda: len(self._stack.ready_workers()) == model_servers, within_s=2 * START_S)
        time.sleep(_LEARN_S)

    def cpu(self) -> CpuTimes:
        """What the processes have used so far."""
        if self._web is None:
            raise RuntimeError("the service has not been started. This is a bug")
        web = [self._web, *self._web.children(recursive=True)]
        return CpuTimes(
            sum(map(_cpu_s, web)), main_thread_s(self._redis_pid), sum(map(_cpu_s, self._model_servers))
        )

    def send(self, rate: float, seconds: float, *, picture: Path, seed: int = 0) -> RealLoad:
        """Send the pictures of a folder at random times, at that rate, without waiting for answers."""
        before = len(self._log.read_text("utf-8").splitlines())
        ledger = self._stack.folder / "ledger.jsonl"
        command = [
            *(
                sys.executable,
                "stress_test.py",
                str(picture),
                "--url",
                self._stack.url,
                "--model",
                MODEL,
                "--poisson",
            ),
            *("--rate", f"{rate:g}", "--duration", f"{seconds:g}s", "--warmup", "0s", "--seed", str(seed)),
            *("--processes", "1", "--timeout", "60s", "--body", "raw"),
            *("--ledger", str(ledger), "--json", str(self._stack.folder / "figures.json")),
        ]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode not in (0, 1) or not ledger.exists():  # 1: some were refused
            raise LoadFailed((done.stderr or done.stdout).strip())
        records = [json.loads(line) for line in ledger.read_text("utf-8").splitlines()]
        ledger.unlink()
        lines = self._log.read_text("utf-8").splitlines()[before:]
        calls = sorted((float(at), int(pictures)) for at, pictures in map(str.split, lines))
        first = calls[0][0] if calls else 0.0
        return RealLoad(
            [_request(record) for record in records if "due" in record],
            [(at - first, pictures) for at, pictures in calls],
        )


@contextlib.contextmanager
def real_service(
    speed: str,
    *,
    input_shape: tuple[int, int, int],
    settings: dict[str, str],
    model_servers: int = 1,
) -> Iterator[RealService]:
    """Run the service over a Redis of its own."""
    with tempfile.TemporaryDirectory() as name, running_redis() as redis:
        folder = Path(name)
        model = folder / "models" / MODEL
        model.mkdir(parents=True)
        height, width, channels = input_shape
        text = _MODEL_TOML.format(width=width, height=height, channels=channels)
        (model / "model.toml").write_text(text)
        (model / "labels.txt").write_text("".join(f"class{number}\n" for number in range(CLASSES)))
        stack = Stack(folder, redis.url, MODEL)
        stack.environment |= {
            "MODELS_DIR": str(folder / "models"),
            "CACHE_DIR": str(folder / "engines"),
            **settings,
        }
        service = RealService(stack, redis.pid)
        try:
            service.start(speed, model_servers)
            yield service
        finally:
            stack.stop()


def _request(record: dict[str, Any]) -> RealRequest:
    return RealRequest(float(record["due"]), float(record["ended"]), int(record.get("status") or 0))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main_thread_s(pid: int) -> float:
    """Of a process' first thread, to the nanosecond: /proc/PID/stat counts hundredths of a second."""
    spent_ns, *_ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
    return int(spent_ns) / 1e9


def about() -> tuple[str, int, str]:
    """The processor's name, its cores, and when under which load something is measured."""
    cpuinfo = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return names[0] if names else "unknown", os.cpu_count() or 1, f"{time.strftime('%Y-%m-%d')}, load {load}"
