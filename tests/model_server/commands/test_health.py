"""What the health check of a model server's container says, and when."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_server.commands import health
from tests.support import ROOT


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FOLDER", tmp_path / "var" / "health")


def test_it_is_not_well_before_a_model_is_served() -> None:
    assert health.verdict(time.time()) == "no model is served yet"


def test_it_is_well_while_every_lease_lasts() -> None:
    health.beat("digits", lease_s=3)
    health.beat("resnet50", lease_s=30)
    assert health.verdict(time.time()) == ""
    assert health.verdict(time.time() + 10) == "the lease has lapsed of: digits"
    assert health.verdict(time.time() + 60) == "the lease has lapsed of: digits, resnet50"
    health.beat("digits", lease_s=30)
    assert health.verdict(time.time() + 10) == ""


def test_a_folder_that_can_t_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(health, "FOLDER", tmp_path / "file" / "health")
    health.beat("digits", lease_s=3)
    assert health.verdict(time.time())


def test_the_command_s_exit_status_is_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "model_server" / "commands").mkdir(parents=True)
    for name in ("__init__.py", "commands/__init__.py", "commands/health.py"):
        source = ROOT / "model_server" / name
        (tmp_path / "model_server" / name).write_bytes(source.read_bytes())
    command = [sys.executable, "-m", "model_server.commands.health"]
    unwell = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (unwell.returncode, unwell.stderr) == (1, "no model is served yet\n")
    health.beat("digits", lease_s=60)
    assert subprocess.run(command, check=False, cwd=tmp_path).returncode == 0
