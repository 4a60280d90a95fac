"""Of what a process writes to stderr while it loads TensorFlow, only TensorFlow's own noise is missing."""

import subprocess
import sys
from typing import Any

import pytest

from settings import PROJECT

pytestmark = pytest.mark.slow

_NOISE = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1795297855.825540    4933 port.cc:153] oneDNN custom operations are on. You may see more.\n"
    "E0000 00:00:1795298273.204639 8 node.cc:682] NodeDef mentions attribute use_unbounded_threadpool.\n"
)

_RUN = """
import os, sys
from model_server.engines.keras.quiet_tensorflow import quiet
print("before", file=sys.stderr)
with quiet():
    os.write(2, {noise!r}.encode())
    os.write(2, b"E0000 something is wrong\\n")
    {last}
print("after", file=sys.stderr)
"""


def _run(last: str, **how: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    command = [sys.executable, "-c", _RUN.format(noise=_NOISE, last=last)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, **how)


def test_the_noise_goes_and_the_rest_comes_in_order() -> None:
    done = _run("pass")
    assert (done.returncode, done.stderr) == (0, "before\nE0000 something is wrong\nafter\n")


def test_a_byte_that_is_no_utf_8_swallows_nothing() -> None:
    done = _run(r"os.write(2, b'caf\xe9 \0 is wrong\nand more\n')", errors="backslashreplace")
    assert done.stderr == "before\nE0000 something is wrong\ncaf\\xe9 \0 is wrong\nand more\nafter\n"


def test_a_process_that_outlives_it_does_not_hold_it_up() -> None:
    # Until its stdin is closed, which is when the one that started it ends.
    done = _run("import subprocess; child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)", timeout=30)
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == ["E0000 something is wrong", "after", "before"]


def test_what_is_said_before_a_crash_is_not_lost() -> None:
    done = _run("os.abort()")
    assert done.returncode < 0
    assert "E0000 something is wrong\n" in done.stderr


def test_an_error_comes_through() -> None:
    done = _run("raise ImportError('no tensorflow')")
    assert "ImportError: no tensorflow" in done.stderr


def test_without_grep_all_is_shown() -> None:
    done = _run("pass", env={"PATH": "/nonexistent"})
    assert (done.returncode, done.stderr) == (
        0,
        f"before\n{_NOISE}E0000 something is wrong\nafter\n",
    )


_HIDES = """
import sys
from model_server.engines.keras.quiet_tensorflow import without_plots
try:
    with without_plots():
        import matplotlib.pyplot
except ImportError as error:
    print(type(error).__name__)
import matplotlib
with without_plots():
    import matplotlib.ticker
print(matplotlib.ticker.__name__)
"""


def test_matplotlib_is_hidden_meanwhile_and_only_from_those_that_have_not_loaded_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HIDES], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["ModuleNotFoundError", "matplotlib.ticker"], done.stderr
