"""The folder that web processes share for their metrics: made once, kept over reloads, removed at the end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from web import metrics_folder

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_for_this_user_alone_and_goes_at_the_end() -> None:
    metrics_folder.make()
    folder = Path(os.environ[VARIABLE])
    assert folder.stat().st_mode & 0o777 == 0o700
    metrics_folder.remove()
    assert not folder.exists()
    assert VARIABLE not in os.environ


def test_a_reload_keeps_it() -> None:
    metrics_folder.make()
    folder = os.environ[VARIABLE]
    metrics_folder.make()
    assert os.environ[VARIABLE] == folder
    metrics_folder.remove()


def test_one_that_the_operator_has_made_is_used_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "precious").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    metrics_folder.make()
    assert metrics_folder.path() == str(tmp_path)
    metrics_folder.remove()
    assert (tmp_path / "precious").exists()


def test_those_of_killed_masters_are_removed_and_of_live_ones_not() -> None:
    metrics_folder.make()
    mine = Path(os.environ.pop(VARIABLE))
    left = mine.with_name(f"batchwire-metrics-{_dead_pid()}-abc")
    other = mine.with_name(f"batchwire-metrics-{os.getppid()}-abc")
    for folder in (left, other):
        folder.mkdir()
        (folder / "counter_1.db").touch()
    metrics_folder.make()
    assert (left.exists(), other.exists(), mine.exists()) == (False, True, True)
    (other / "counter_1.db").unlink()
    other.rmdir()
    mine.rmdir()
    metrics_folder.remove()


def test_one_that_another_start_removes_at_the_same_moment_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = metrics_folder.PARENT / f"batchwire-metrics-{_dead_pid()}-abc"
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    metrics_folder.make()
    assert Path(metrics_folder.path()).is_dir()
    metrics_folder.remove()
