"""Stop signals in a process of their own: also given to a thread that no mask reaches, and more than one."""

import signal
import subprocess
import sys

import pytest

# NumPy's import starts native threads before the signals are taken over, as an engine's does.
PROGRAM = """
import sys, time
import numpy
from model_server.serving.stop_signals import StopSignals
signals = StopSignals()
print(signals.wait(0), flush=True)
came = signals.wait(20)
print(came, flush=True)
sys.stdin.readline()
print("alive", signals.wait(0), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_one_is_waited_for_and_more_do_no_harm(which: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "False\n"
        process.send_signal(which)
        assert process.stdout.readline() == "True\n"
        for _ in range(3):
            process.send_signal(which)
        out, _ = process.communicate("go on\n", timeout=20)
    assert out == "alive True\n"
    assert process.returncode == 0
