"""What the health check of a model server's container says, and when."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_server.serving.health_file import FOLDER, HealthFiles, verdict
from settings import Settings
from tests.support import ROOT

LEASE_S = 60.0

SERVER = """
import sys
from pathlib import Path
from model_server.serving.health_file import HealthFiles
files = HealthFiles(Path(sys.argv[1]))
files.beat(sys.argv[2], lease_s=float(sys.argv[3]))
print("beats", flush=True)
sys.stdin.read()
files.clear()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "var" / "health"


@pytest.fixture
def files(folder: Path) -> HealthFiles:
    return HealthFiles(folder)


def _server(folder: Path, model: str, lease_s: float) -> subprocess.Popen[str]:
    """A process that has said once that it serves the model, and ends when its stdin does."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder), model, str(lease_s)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "beats\n"
    return process


def test_it_is_not_well_before_a_model_is_served(folder: Path) -> None:
    assert verdict(folder, time.time()) == "no model is served yet"


def test_it_is_well_while_every_lease_lasts(folder: Path, files: HealthFiles) -> None:
    files.beat("digits", lease_s=3)
    files.beat("resnet50", lease_s=30)
    assert verdict(folder, time.time()) == ""
    assert verdict(folder, time.time() + 10) == "the lease has lapsed of: digits"
    assert verdict(folder, time.time() + 60) == "the lease has lapsed of: digits, resnet50"
    files.beat("digits", lease_s=30)
    assert verdict(folder, time.time() + 10) == ""
    files.clear()
    assert list(folder.iterdir()) == []


def test_what_a_killed_server_or_an_earlier_release_left_is_not_judged(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "mine").touch()
    os.utime(folder / "mine", (0, 0))
    with _server(folder, "resnet50", 0.0) as killed:
        assert verdict(folder, time.time()) == "the lease has lapsed of: resnet50"
        killed.kill()
    assert verdict(folder, time.time()) == "no model is served yet"
    with _server(folder, "digits", LEASE_S) as stopped:
        assert verdict(folder, time.time()) == ""
        assert [path.name.partition(".")[0] for path in folder.iterdir()] == ["digits"]
        stopped.communicate(timeout=20)
    assert list(folder.iterdir()) == []


def test_each_of_the_servers_that_share_the_folder_is_judged(folder: Path, files: HealthFiles) -> None:
    files.beat("digits", lease_s=LEASE_S)
    with _server(folder, "digits", 0.0) as other:
        assert verdict(folder, time.time()) == "the lease has lapsed of: digits"
        other.communicate(timeout=20)
    assert verdict(folder, time.time()) == ""


def test_a_folder_that_was_cleared_meanwhile_is_filled_again(folder: Path, files: HealthFiles) -> None:
    files.beat("digits", lease_s=LEASE_S)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    files.beat("digits", lease_s=LEASE_S)
    assert verdict(folder, time.time()) == ""


def test_a_folder_that_can_t_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files = HealthFiles(tmp_path / "file" / "health")
    files.beat("digits", lease_s=3)
    assert verdict(tmp_path / "file" / "health", time.time())
    files.clear()


def test_the_command_s_exit_status_is_the_verdict(tmp_path: Path, files: HealthFiles) -> None:
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

    def asked(*arguments: str) -> tuple[int, str]:
        run = subprocess.run(
            [*command, *arguments], check=False, cwd=tmp_path, capture_output=True, text=True
        )
        return run.returncode, run.stderr

    assert asked() == (1, "no model is served yet\n")
    files.beat("digits", lease_s=LEASE_S)
    assert asked() == (0, "")
    assert asked("--dir", str(tmp_path / "other")) == (1, "no model is served yet\n")


def test_the_default_folder_is_that_of_the_settings() -> None:
    assert str(FOLDER) == Settings.from_env({}).health_dir
