"""Loads TensorFlow without what only costs: log lines of its C++, and Matplotlib.

Owns which lines those are: its C++ always writes them, whatever TF_CPP_MIN_LOG_LEVEL says. `quiet` is for
commands and child processes: in a serving process the stderr of other threads would be filtered as well.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_NOISE: Final = (
    "^WARNING: All log messages before absl::InitializeLog",
    "^I0000 .*oneDNN custom operations",
    "^E0000 .*NodeDef mentions attribute use_unbounded_threadpool",
)
"""Lines of TensorFlow 2.21: the first two at each import, twice; the last wherever tf.data runs."""

_GREP: Final = ("grep", "-a", "--line-buffered", "-v")
"""-a treats the input as text: otherwise grep drops everything after a byte that is not UTF-8."""

_LAST_LINES_S: Final = 2.0
"""How long to wait for the last lines, so that they come before what is written next."""


@contextmanager
def quiet() -> Iterator[None]:
    """Filter stderr around an import of TensorFlow, or training; all other lines pass.

    Grep does the filtering, because TensorFlow may end this process (on a processor without AVX) with a
    single line that says why.
    """
    ends = os.pipe()
    patterns = [word for pattern in _NOISE for word in ("-e", pattern)]
    try:
        grep = subprocess.Popen([*_GREP, *patterns], stdin=ends[0], stdout=2)  # noqa: S603
    except OSError:  # no grep: nothing is filtered
        os.close(ends[1])
        yield
        return
    finally:
        os.close(ends[0])
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(ends[1], 2)
    os.close(ends[1])
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        with suppress(subprocess.TimeoutExpired):  # a process started meanwhile may hold grep's input open
            grep.wait(_LAST_LINES_S)


@contextmanager
def without_plots() -> Iterator[None]:
    """Hide Matplotlib from an import of TensorFlow or Keras, unless it is loaded already.

    Keras imports it for a gallery of pictures, and does without where it is not installed: 0.5 of 3.7 s of
    CPU time.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment] # the documented way to block an import
    try:
        yield
    finally:
        del sys.modules["matplotlib"]
