"""Loads TensorFlow without the lines that its C++ writes about itself, whatever TF_CPP_MIN_LOG_LEVEL says.

Owns which lines those are. For a command, or a process of its own: in one that serves, what other threads
write to stderr would go the same way round.
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
"""What TensorFlow 2.21 writes: the first two at each import, twice; the last wherever tf.data runs."""

_GREP: Final = ("grep", "-a", "--line-buffered", "-v")
"""-a, as text: after a byte that is no UTF-8 it would swallow all that follows ("binary file matches")."""

_LAST_LINES_S: Final = 2.0
"""How long the last lines are waited for, so that they stand before what is written next."""


@contextmanager
def quiet() -> Iterator[None]:
    """Around what imports TensorFlow, or trains: what else comes on stderr is written all the same.

    By grep, not by this process, which TensorFlow may end (a processor without AVX) with only a line of why.
    """
    ends = os.pipe()
    patterns = [word for pattern in _NOISE for word in ("-e", pattern)]
    try:
        grep = subprocess.Popen([*_GREP, *patterns], stdin=ends[0], stdout=2)  # noqa: S603
    except OSError:  # no grep: then they are seen
        os.close(ends[1])
        yield
        return
    finally:
        os.close(ends[0])
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(ends[1], 2)
    os.close(ends[1])
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        with suppress(subprocess.TimeoutExpired):  # a process that was started within may hold its input open
            grep.wait(_LAST_LINES_S)
