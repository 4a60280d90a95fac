"""What a killed run has left is removed by the next; what a run that lives has is not touched."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import ROOT, leftovers
from tests.support.waiting import eventually

RUN = """\
import subprocess, time
from tests.support import leftovers
leftovers.mark()
folder = leftovers.folder()
marked = subprocess.Popen(["sleep", "1000"], start_new_session=True)
in_folder = subprocess.Popen(["env", "--ignore-environment", "sleep", "1000"], cwd=folder)
print(folder, marked.pid, in_folder.pid, flush=True)
time.sleep(1000)
"""


@contextmanager
def _a_run() -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """A context: a run that is none of this test's, and what it has."""
    own = {name: value for name, value in os.environ.items() if name != leftovers.VARIABLE}
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout is not None
            folder, *pids = run.stdout.readline().split()
            yield run, [Path(folder), *(Path("/proc", pid) for pid in pids)]
        finally:
            run.kill()


def test_what_a_killed_run_left_is_removed() -> None:
    with _a_run() as (run, left):
        leftovers.remove()
        assert all(path.exists() for path in left)
        run.kill()
        run.wait()
        leftovers.remove()
        eventually(lambda: not any(path.exists() for path in left))


def test_a_run_within_a_run_belongs_to_it() -> None:
    before = os.environ[leftovers.VARIABLE]
    leftovers.mark()
    assert os.environ[leftovers.VARIABLE] == before
