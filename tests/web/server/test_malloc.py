"""Memory that was freed goes back to the system."""

import subprocess
import sys

import pytest

from tests.support import ROOT

PROGRAM = """
import psutil
from web.server import malloc

{call}
def resident_mb():
    return psutil.Process().memory_info().rss / 2**20

before = resident_mb()
small = []
for _ in range(3):  # each block that is freed raises glibc's own limit
    blocks = [b"x" * (20 * 2**20) for _ in range(10)]
    small.append(bytearray(2**20))  # above what is freed, so that the heap can't shrink
    del blocks
print(resident_mb() - before)
"""


def _left_mb(call: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(call=call)]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_large_blocks_go_back() -> None:
    assert _left_mb("malloc.give_back_large_blocks()") < 30
