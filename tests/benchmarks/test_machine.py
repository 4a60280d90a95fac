"""The account of what other programs take."""

import subprocess
import sys
import time

import pytest

from benchmarks.serving import machine


@pytest.mark.slow
def test_what_a_program_of_ours_takes_is_not_others() -> None:
    burn = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    others = machine.Others()
    subprocess.run([sys.executable, "-c", burn], check=True)
    with_it = others.cores()
    assert others.cores(ours_s=0.3) <= with_it


@pytest.mark.slow
def test_one_is_not_patient_for_ever() -> None:
    began = time.monotonic()
    assert machine.await_quiet(0.0) >= 0.0
    assert time.monotonic() - began < 5
