"""What the health check of a model server's container says, and when."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_server.serving import health_file
from tests.support import ROOT


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_file, "FOLDER", tmp_path / "var" / "health")


def test_it_is_not_well_before_a_model_is_served() -> None:
    assert health_file.verdict(time.time()) == "no model is served yet"


def test_it_is_well_while_every_lease_lasts() -> None:
    health_file.beat("digits", lease_s=3)
    health_file.beat("resnet50", lease_s=30)
    assert health_file.verdict(time.time()) == ""
    assert health_file.verdict(time.time() + 10) == "the lease has lapsed of: digits"
    assert health_file.verdict(time.time() + 60) == "the lease has lapsed of: digits, resnet50"
    health_file.beat("digits", lease_s=30)
    assert health_file.verdict(time.time() + 10) == ""


def test_a_folder_that_can_t_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(health_file, "FOLDER", tmp_path / "file" / "health")
    health_file.beat("digits", lease_s=3)
    assert health_file.verdict(time.time())


def test_the_command_s_exit_status_is_the_verdict(tmp_path: Path) -> None:
    for name in (
        "model_server/__init__.py",
        "model_server/__main__.py",
        "model_server/commands/__init__.py",
        "model_server/commands/health.py",
        "model_server/commands/terminal.py",
        "model_server/serving/__init__.py",
        "model_server/serving/health_file.py",
        "telemetry/__init__.py",
        "telemetry/tracing.py",
    ):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    # -S: without installed packages, so that it stays cheap.
    command = [sys.executable, "-S", "-m", "model_server", "health"]
    unwell = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (unwell.returncode, unwell.stderr) == (1, "no model is served yet\n")
    health_file.beat("digits", lease_s=60)
    assert subprocess.run(command, check=False, cwd=tmp_path).returncode == 0
