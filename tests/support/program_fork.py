"""Starts the service's programs as forks of one process that has loaded the packages that they import.

Until it answers, a web process takes 0.2 s of a core instead of 0.7, a model server 0.15 instead of 0.6. Owns
that process: one for each process of pytest, started for its first program. It loads the packages of others
alone: what is this project's each program imports itself, in its own order. In every other respect a fork is
a process of its own, a child of pytest's. A test of how a program starts uses `subprocess` instead.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy

from tests.support import ROOT

_PACKAGES: Final = (
    *("asyncio", "colorsys", "concurrent.futures", "ctypes", "email.message", "http.server", "mmap"),
    *("pickletools", "ssl", "statistics", "tarfile", "timeit", "tomllib", "urllib.request"),
    *("flask", "flask_compress", "flask_cors", "multipart", "werkzeug.test", "wsgiref.simple_server"),
    *("gunicorn.app.wsgiapp", "gunicorn.arbiter", "gunicorn.glogging", "gunicorn.http.wsgi"),
    *("gunicorn.workers.gthread", "google.protobuf.any_pb2", "google.protobuf.wrappers_pb2", "grpc"),
    *("grpc_health.v1.health", "msgspec", "numpy.random", "numpy.typing", "psutil", "pybase64"),
    *("redis.cluster", "redis.sentinel", "simplejpeg", "opentelemetry.sdk.metrics.export"),
    *("opentelemetry.sdk.resources", "opentelemetry.trace.propagation"),
    *("PIL.ImageChops", "PIL.ImageCms", "PIL.ImageDraw", "PIL.ImageFile", "PIL.ImageFont", "PIL.TiffTags"),
    *("httpx", "rich.progress"),
)
"""Not prometheus_client: as it is imported it looks for the folder that its processes share."""

_LONGEST: Final = 1_000_000
_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER, prctl(2)


class _Forked(subprocess.Popen[bytes]):
    """A child that was not started by Popen, but can be waited for and signalled like one."""

    def __init__(self, args: list[str], pid: int) -> None:
        self.args = args
        self.pid = pid
        self.returncode = None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


class ProgramFork:
    """The process, and how a program is started in a fork of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def start(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """What `subprocess.Popen([sys.executable, "-m", *arguments], ...)` returns, without stdin.

        Its `errors` go to its output unless they have a file of their own.
        """
        program = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        with self._lock:
            orders = self._orders or self._begin()
            # The fork's parent ends at once, and leaves it to this process.
            _adopt(is_on=True)
            try:
                files = [output.fileno(), (errors or output).fileno()]
                socket.send_fds(orders, [json.dumps(program).encode()], files)
                pid = int(orders.recv(100))
            except BaseException:  # pytest's timeout among them: a late answer is not the next program's
                self._end()
                raise
            finally:
                _adopt(is_on=False)
        return _Forked([sys.executable, "-m", *arguments], pid)

    def run(
        self, arguments: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` of the same returns, with its output as text; at most a minute."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            environment = os.environ if env is None else env
            process = self.start(arguments, cwd=cwd, env=environment, output=output, errors=errors)
            try:
                status = process.wait(timeout=60)
            finally:
                process.kill()
                process.wait()
            for file in (output, errors):
                file.seek(0)
            texts = (output.read().decode(), errors.read().decode())
            return subprocess.CompletedProcess(process.args, status, *texts)

    def close(self) -> None:
        """End the process; what it has forked goes on, and the next program starts another."""
        with self._lock:
            self._end()

    def _begin(self) -> socket.socket:
        self._orders, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(its.fileno())],
                cwd=ROOT,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
            )
        return self._orders

    def _end(self) -> None:
        if self._process is not None and self._orders is not None:
            self._orders.close()
            self._process.kill()
            self._process.wait()
            self._process = self._orders = None


_FORK = ProgramFork()
start = _FORK.start
run = _FORK.run
close = _FORK.close


def _adopt(*, is_on: bool) -> None:
    """Whether this process is the parent of what is below it and has lost its own."""
    ctypes.CDLL(None).prctl(_SUBREAPER, int(is_on))


def _serve(orders: socket.socket) -> None:
    """Run each program in a fork, and answer its process id."""
    for name in _PACKAGES:
        with contextlib.suppress(ModuleNotFoundError):  # of tests alone, in an environment that is not theirs
            importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "what is loaded has begun a thread"
    # In a fork the collector would go through all that is here, and copy its pages, to free none of it.
    gc.collect()
    gc.freeze()
    while True:
        order, outputs, _, _ = socket.recv_fds(orders, _LONGEST, 2)
        if not order:
            return
        ours, its = os.pipe()
        between = os.fork()
        if not between:
            if child := os.fork():
                os.write(its, str(child).encode())
                os._exit(0)
            for each in (ours, its):
                os.close(each)
            orders.close()
            _end(_run(json.loads(order), outputs))
        for each in (its, *outputs):
            os.close(each)
        os.waitpid(between, 0)
        orders.send(os.read(ours, 100))
        os.close(ours)


def _run(program: dict[str, Any], files: list[int]) -> object:
    """Do in this process what `python -m` does with the arguments; return what the program exits with."""
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    # A process of its own would have begun with other random numbers too.
    random.seed()
    numpy.random.seed()
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    sys.path[0] = program["cwd"]
    first, *rest = program["arguments"]
    sys.argv = ["-m", *rest]
    try:
        runpy.run_module(first, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    return None


def _end(status: object) -> NoReturn:
    """End as Python does, but without freeing all that is here, which takes 50 ms of a core."""
    if not isinstance(status, int | None):
        sys.exit(str(status))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        file.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve(socket.socket(fileno=int(sys.argv[1])))
