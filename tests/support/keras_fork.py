"""Runs Python programs that need Keras, each in a fork of one process that has loaded it with TensorFlow.

A conversion takes 0.8 s of a core instead of 4.8. Owns that process: one for each process of pytest, started
for its first program. A test of how a program starts (what it loads, and when) uses `subprocess` instead.
"""

import contextlib
import gc
import json
import os
import random
import runpy
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from model_server.engines.keras.quiet_tensorflow import without_plots
from tests.support import ROOT


class KerasFork:
    """The process, and the programs in its forks, one after the other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run([sys.executable, *arguments], capture_output=True, text=True)` returns."""
        environment = dict(os.environ if env is None else env)
        with tempfile.TemporaryDirectory(prefix="bw-keras-") as folder, self._lock:
            out, err = Path(folder, "stdout"), Path(folder, "stderr")
            program = {"arguments": list(arguments), "cwd": str(cwd), "env": environment}
            status = self._call({**program, "stdout": str(out), "stderr": str(err)})
            return subprocess.CompletedProcess(
                [sys.executable, *arguments], status, out.read_text("utf-8"), err.read_text("utf-8")
            )

    def close(self) -> None:
        """End the process; the next program starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _call(self, program: dict[str, object]) -> int:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=ROOT,
                env=os.environ | {"KERAS_BACKEND": "tensorflow", "HOME": "/nonexistent"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(program) + "\n")
            self._process.stdin.flush()
            return int(self._process.stdout.readline())
        except BaseException:  # pytest's timeout among them: a late answer is not the next program's
            self.close()
            raise


_FORK = KerasFork()
run = _FORK.run
close = _FORK.close


def run_conversion(command: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
    """What conversion.py calls instead of subprocess.run; the log goes to this process's stderr."""
    done = run(command[1:])
    os.write(2, done.stderr.encode())
    return done


CONVERSIONS = SimpleNamespace(run=run_conversion, PIPE=subprocess.PIPE)
"""What stands for `subprocess` in conversion.py."""


def _serve() -> None:
    """Run each program of stdin in a fork, and print its exit status; return in the fork as well."""
    # OpenVINO's telemetry begins a thread, and a process, as it is imported. A fork has neither, but has the
    # locks that the thread held: of a module, say, which a program would wait for without end.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # as runtime.py has it

    import h5py  # noqa: F401, PLC0415

    with without_plots():
        import keras  # noqa: F401, PLC0415
    import numpy as np  # noqa: PLC0415
    import openvino  # noqa: F401, PLC0415

    assert threading.active_count() == 1, threading.enumerate()
    # In a fork the collector would go through a million objects, and copy their pages, to free none of them.
    gc.freeze()
    statuses = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            statuses.close()
            # A process of its own would have begun with other random numbers too.
            random.seed()
            np.random.seed()
            _run(json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=statuses, flush=True)


def _run(program: dict[str, Any]) -> None:
    """Do in this process what Python does with the program's arguments."""
    for number, path in enumerate((os.devnull, program["stdout"], program["stderr"])):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    first, *rest = program["arguments"]
    if first == "-m":
        sys.path[0] = program["cwd"]
        sys.argv = ["-m", *rest[1:]]
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))  # noqa: S102 - the tests' own
    else:
        sys.path[0] = str(Path(first).absolute().parent)
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
