"""A contender while it runs: started under its guard, asked until it answers, weighed, ended.

Owns its processes' life and what they cost (CPU seconds by kind, resident memory). Judges nothing.
"""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

from benchmarks.programs import ROOT, BenchmarkFailed
from benchmarks.serving.contenders import Contender, Place

_START_S: Final = 120.0
_LOOK_S: Final = 0.05
_WRONG_S: Final = 15.0
_WRONG: Final = (400, 415, 422)
"""The request is not as the server wants it: what no start explains for long."""
_END_S: Final = 30.0
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes together, in megabytes. `rss` counts a page once a process, `pss` once in all."""

    rss: float
    pss: float


class Running:
    """A contender that answers. `kinds` says what each of its programs counts as."""

    def __init__(self, url: str, kinds: dict[int, str], start_s: float) -> None:
        self.url = url
        self.start_s = start_s
        """From its start to its first answer."""
        self._kinds = kinds

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds by kind, of all processes that are or were in the tree."""
        found = dict.fromkeys(self._kinds.values(), 0.0)
        for pid, kind in self._kinds.items():
            for process in _tree(pid):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found[kind] += sum(process.cpu_times()[:4])  # its own, and of children that have ended
        return found

    def memory(self) -> Memory:
        """What all processes hold now."""
        rss = pss = 0
        for process in (each for pid in self._kinds for each in _tree(pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                held = process.memory_full_info()
                rss, pss = rss + held.rss, pss + held.pss
        return Memory(rss / _MB, pss / _MB)


@contextlib.contextmanager
def started(
    contender: Contender, place: Place, picture: Path, log: Path, *, within_s: float = _START_S
) -> Iterator[Running]:
    """Start it in a folder of its own, wait for its first answer, end it. Raises BenchmarkFailed."""
    # Not below the project: a Unix socket's path has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="bw-bench-"))
    place = replace(place, folder=folder, ports=_free_ports(3))
    try:
        programs = [
            {"kind": p.kind, "command": p.command, "environment": p.environment, "log": str(log)}
            for p in contender.programs(place)
        ]
        began = time.monotonic()
        guard = subprocess.Popen(  # noqa: S603 - ours
            [sys.executable, "-m", "benchmarks.serving.guard", json.dumps(programs)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        try:
            if guard.stdout is None:
                raise TypeError("a pipe was asked for. This is a bug")
            kinds = {int(guard.stdout.readline() or "0"): str(each["kind"]) for each in programs}
            url = f"http://127.0.0.1:{place.port}{contender.path}"
            _await_answer(contender, url, picture.read_bytes(), guard, kinds, within_s)
            yield Running(url, kinds, time.monotonic() - began)
        finally:
            guard.communicate(timeout=_END_S)  # closes its stdin, which ends everything
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_answer(
    contender: Contender,
    url: str,
    picture: bytes,
    guard: subprocess.Popen[str],
    kinds: dict[int, str],
    within_s: float,
) -> None:
    body, headers = request(contender, picture)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + within_s
    why = "nothing"
    while time.monotonic() < deadline:
        if guard.poll() is not None or not all(psutil.pid_exists(pid) and _lives(pid) for pid in kinds):
            raise BenchmarkFailed(f"{contender.name}: a program ended at its start ({why})")
        try:
            asked = urllib.request.Request(url, body, headers)  # noqa: S310 - our own address
            with opener.open(asked, timeout=_START_S) as response:
                if response.status == 200:
                    return
                why = str(response.status)
        except urllib.error.HTTPError as error:
            why = f"{error.code} {error.read(300)!r}"
            if error.code in _WRONG:
                deadline = min(deadline, time.monotonic() + _WRONG_S)
        except (OSError, ValueError) as error:
            why = str(error)
        time.sleep(_LOOK_S)
    raise BenchmarkFailed(f"{contender.name}: no answer at its start: {why}")


def request(contender: Contender, picture: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of one request, as stress_test.py makes them."""
    if contender.body == "raw":
        return picture, {"Content-Type": "image/jpeg"}
    if contender.body == "multipart":
        head = f'Content-Disposition: form-data; name="{contender.field}"; filename="x.jpg"'
        body = f"--x\r\n{head}\r\nContent-Type: image/jpeg\r\n\r\n".encode() + picture + b"\r\n--x--\r\n"
        return body, {"Content-Type": "multipart/form-data; boundary=x"}
    text = contender.body.replace("$image_base64", base64.b64encode(picture).decode())
    return text.encode(), {"Content-Type": "application/json"}


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _free_ports(count: int) -> tuple[int, ...]:
    """Ports that nobody had a moment ago."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return tuple(int(probe.getsockname()[1]) for probe in probes)
