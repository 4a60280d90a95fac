"""Of what a process writes to stderr while it loads TensorFlow, only TensorFlow's own noise is missing."""

import subprocess
import sys

from settings import PROJECT

_NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795297855.825540    4933 port.cc:153] oneDNN custom operations are on. You may see more.\n"
    "E0000 00:00:1795298273.204639 8 node.cc:682] NodeDef mentions attribute use_unbounded_threadpool.\n"
)

_RUN = """
import os, sys
from model_server.engines.quiet import quiet
print("before", file=sys.stderr)
with quiet():
    os.write(2, {noise!r}.encode())
    os.write(2, b"E0000 something is wrong\\n")
    {last}
print("after", file=sys.stderr)
"""


def _run(last: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _RUN.format(noise=_NOISE, last=last)]
    return subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment or None
    )


def test_the_noise_goes_and_the_rest_comes_in_order() -> None:
    done = _run("pass")
    assert (done.returncode, done.stderr) == (0, "before\nE0000 something is wrong\nafter\n")


def test_what_is_said_before_a_crash_is_not_lost() -> None:
    done = _run("os.abort()")
    assert done.returncode < 0
    assert "E0000 something is wrong\n" in done.stderr


def test_an_error_comes_through() -> None:
    done = _run("raise ImportError('no tensorflow')")
    assert "ImportError: no tensorflow" in done.stderr


def test_without_grep_all_is_shown() -> None:
    done = _run("pass", PATH="/nonexistent")
    assert (done.returncode, done.stderr) == (
        0,
        f"before\n{_NOISE}E0000 something is wrong\nafter\n",
    )
