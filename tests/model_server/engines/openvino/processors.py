"""Processors of other kinds than this one: oneDNN's own switch makes them, in a process of their own."""

import os
import platform
import subprocess
import sys

import pytest

from settings import PROJECT


def run_on(most: str, *arguments: str) -> str:
    """What a Python process prints that may use no instructions beyond `most`, one of oneDNN's names.

    "" is this processor as it is. Skips the test where there is nothing to switch off.
    """
    if most and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{platform.machine()} has none of the instruction sets that ONEDNN_MAX_CPU_ISA names")
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    if most:
        environment["ONEDNN_MAX_CPU_ISA"] = most
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
