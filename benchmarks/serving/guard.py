"""`python -m benchmarks.serving.guard`: start a contender's programs and leave none of them behind.

Owns their end, whatever ends first: it lives as long as its stdin is open, so that a benchmark that is killed
takes everything with it, and adopts what its programs leave orphaned. Reads what to start as JSON from its
argument: [{"kind", "command", "environment", "log"}]; says each program's process id on stdout.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from typing import Final

import psutil

_SUBREAPER: Final = 36  # prctl(2), PR_SET_CHILD_SUBREAPER
_DEATH_SIGNAL: Final = 1  # prctl(2), PR_SET_PDEATHSIG
_PATIENCE_S: Final = 5.0


def main() -> None:
    """Start, wait until stdin ends, end everything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1)

    def in_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(_DEATH_SIGNAL, signal.SIGKILL)

    try:
        for each in json.loads(sys.argv[1]):
            with open(each["log"], "ab") as log:
                program = subprocess.Popen(  # noqa: S603 - what the benchmark names
                    each["command"],
                    env=os.environ | each["environment"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=in_child,  # noqa: PLW1509 - this process has no other thread
                )
            sys.stdout.write(f"{program.pid}\n")
            sys.stdout.flush()
        sys.stdin.read()
    finally:
        end_all()


def end_all() -> None:
    """SIGTERM to every descendant, SIGKILL to what does not go; again, until there is none."""
    me = psutil.Process()
    patience_s = _PATIENCE_S
    while left := me.children(recursive=True):
        # The last to start first: what it talks to is still there while it goes.
        for process in reversed(left):
            _send(process, signal.SIGTERM if patience_s else signal.SIGKILL)
        psutil.wait_procs(left, timeout=patience_s or _PATIENCE_S)
        patience_s = 0.0


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main()
