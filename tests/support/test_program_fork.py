"""What is forked behaves as a process that was started: its parent, its place, its output and its end."""

import os
import signal
from pathlib import Path

import pytest

from tests.support import program_fork

PROGRAM = """\
import os, sys, time
roots = ("web", "broker", "tests", "prometheus_client")
found = [name for name in sys.modules if name.split(".")[0] in roots]
print(os.getppid(), os.getcwd(), sys.argv[1:], os.environ["WORD"], "HOME" in os.environ, found, __name__)
if sys.argv[1] == "waits":
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(("argument", "status"), [("0", 0), ("7", 7), ("waits", -signal.SIGKILL)])
def test_a_fork_is_a_child_with_its_own_place_and_variables(
    tmp_path: Path, argument: str, status: int
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with (tmp_path / "log").open("wb") as log:
        process = program_fork.start(["program", argument], cwd=tmp_path, env={"WORD": "its own"}, output=log)
    if argument == "waits":
        assert process.poll() is None
        process.kill()
    else:
        said = f"{os.getpid()} {tmp_path} ['{argument}'] its own False [] __main__\n"
        assert (process.wait(timeout=20), (tmp_path / "log").read_text()) == (status, said)
    assert process.wait(timeout=20) == status


def test_a_process_that_has_gone_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("")
    with (tmp_path / "log").open("wb") as log:
        for _ in range(2):
            assert program_fork.start(["program"], cwd=tmp_path, env={}, output=log).wait(timeout=20) == 0
            program_fork.close()
