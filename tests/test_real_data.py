"""What a run says of tests whose data is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("folder", ["empty", ""])
def test_a_run_without_data_says_at_its_end_what_did_not_run(tmp_path: Path, folder: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/e2e/test_digits.py"]
    environment = {**os.environ, "TEST_DATA": str(tmp_path / folder) if folder else ""}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "NOT RUN (3): TEST_DATA has no data/mnist.npz (tests/README.md)" in run.stdout
