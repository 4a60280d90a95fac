"""A contender leaves no process behind, whatever it does and whoever is killed."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.serving import running
from benchmarks.serving.contenders import contenders
from tests.support import ROOT
from tests.support.waiting import eventually

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)
open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')
time.sleep(600 if sys.argv[2] == 'stays' else 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["stays", "orphans its child"])
def test_nothing_is_left(tmp_path: Path, what: str) -> None:
    pids = tmp_path / "pids"
    program = {
        "kind": "server",
        "command": [sys.executable, "-c", STUBBORN, str(pids), what],
        "environment": {},
        "log": str(tmp_path / "log"),
    }
    guard = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.serving.guard", json.dumps([program])],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    started = [int(pid) for pid in pids.read_text().split()]
    assert psutil.pid_exists(started[1])
    guard.communicate(timeout=30)
    assert not any(psutil.pid_exists(pid) for pid in started)


def test_a_request_has_the_form_that_the_contender_wants() -> None:
    by_name = {each.name: each for each in contenders(product_engine=False)}
    body, headers = running.request(by_name["mosec, 10 ms"], b"jpeg")
    assert (body, headers) == (b"jpeg", {"Content-Type": "image/jpeg"})
    body, _ = running.request(by_name["MLServer, 10 ms"], b"jpeg")
    assert json.loads(body)["inputs"][0]["data"] == ["anBlZw=="]
    body, headers = running.request(by_name["BentoML"], b"jpeg")
    assert b'name="images"' in body
    assert headers["Content-Type"].startswith("multipart/form-data")


def test_names_are_unique_and_peers_have_their_requirements() -> None:
    everyone = contenders(product_engine=True)
    assert len({each.name for each in everyone}) == len(everyone)
    for each in everyone:
        assert (ROOT / "benchmarks" / "serving" / f"requirements-{each.environment}.txt").is_file()
