"""What ends `make serve`: real processes, with a terminal that is closed."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.waiting import eventually

WAITS = """
import sys, time
from pathlib import Path
from deploy.serve.stop_request import StopRequest
signals, until = StopRequest(), time.monotonic() + 20
Path(sys.argv[1]).write_text("began")
while not (came := signals.came(within_s=0.05)) and time.monotonic() < until:
    pass
Path(sys.argv[1]).write_text("stopped" if came else "went on")
"""

LEADS = """
import signal, subprocess, sys
signal.signal(signal.SIGHUP, lambda *_: None)  # as make: it waits for what it has started
sys.exit(subprocess.call([sys.executable, "-c", *sys.argv[1:]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("leads", [LEADS, ""], ids=["its parent leads the session", "it does"])
def test_a_terminal_that_is_closed_stops_it(tmp_path: Path, leads: str) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", *filter(None, [leads, WAITS]), str(told)]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execv(command[0], command)  # noqa: S606 - our own command
    eventually(told.exists)
    time.sleep(0.2)
    assert told.read_text() == "began"  # an open terminal stops nothing
    os.close(terminal)
    eventually(lambda: told.read_text() == "stopped", within_s=10)
    os.waitpid(pid, 0)


@pytest.mark.slow
def test_without_a_terminal_a_signal_stops_it(tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = [sys.executable, "-c", LEADS, WAITS, str(told)]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdin=subprocess.DEVNULL) as leader:
        eventually(told.exists)
        time.sleep(0.2)
        assert told.read_text() == "began"
        os.killpg(leader.pid, signal.SIGTERM)
    eventually(lambda: told.read_text() == "stopped", within_s=10)
