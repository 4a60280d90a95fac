"""A folder of metrics that is full or gone: no process dies of it, no request fails, and counts come back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

COUNT = """
import os, sys
from pathlib import Path
from broker.metrics import STAGE
from web import metrics
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])

class Nothing:
    def collect(self):
        return ()

def told():
    return metrics.exposition("", Nothing())[0].decode()

def fill():
    try:
        with (folder / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass

def count(first, last):
    for number in range(first, last):
        STAGE.labels(f"model-{number}", "decode").observe(1)

def counted(number):
    name = "batchwire_stage_duration_seconds_count"
    return f'{name}{{model="model-{number}",stage="decode"}} ' in told()
"""


def _run(script: str, folder: Path, *, kib: int = 0) -> None:
    """Run it over that folder; with `kib` over a file system in memory of that size."""
    command = [sys.executable, "-c", COUNT + script]
    if kib:
        mount = f'mount -t tmpfs -o size={kib}k tmpfs "$0" && exec "$@"'
        command = ["unshare", "-rm", "sh", "-c", mount, str(folder), *command]
        allowed = subprocess.run([*command[:6], "true"], capture_output=True, check=False)
        if allowed.returncode:
            pytest.skip("this machine lets nobody mount a file system of their own")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_one_that_fills_up_later_costs_new_series_until_it_has_room(tmp_path: Path) -> None:
    script = """
count(0, 1)
fill()
count(0, 60)  # more than the file has room for
assert counted(0) and not counted(59)
(folder / "filler").unlink()
count(59, 60)
assert 'count{model="model-59",stage="decode"} 2.0' in told(), told()
"""
    _run(script, tmp_path, kib=512)


@pytest.mark.slow
def test_what_a_process_that_has_ended_counted_takes_no_more_room_than_it_needs(tmp_path: Path) -> None:
    script = """
count(0, 1)
(file,) = folder.glob("*.db")
assert file.stat().st_size == 65536
before = told()
assert counted(0)
metrics.metrics_folder.forget(os.getpid())
assert file.stat().st_size < 8192
assert told() == before
"""
    _run(script, tmp_path)


@pytest.mark.slow
def test_one_that_is_full_at_the_start_is_done_without(tmp_path: Path) -> None:
    script = """
fill()
count(0, 60)
assert not counted(0)
assert [file.name for file in folder.iterdir()] == ["filler"]
"""
    _run(script, tmp_path, kib=64)


@pytest.mark.slow
def test_one_that_is_gone_leaves_what_this_process_counts(tmp_path: Path) -> None:
    _run("count(0, 60)\nassert counted(59)\n", tmp_path / "gone")
