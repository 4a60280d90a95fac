"""The program of Redis' container at its end: what was answered is in no file after it."""

import os
import signal
import subprocess
from pathlib import Path

from tests.support import ROOT
from tests.support.waiting import eventually

SERVER = """#!/bin/sh
[ "$1" = --version ] && echo 'Redis server v=7.2.0' && exit
echo began >>"$CALLS"
exec sleep 100
"""

CLI = """#!/bin/sh
# While the file BUSY has lines, a rewrite runs: one less at each look.
for word; do case $word in
  INFO)
    [ -s "$BUSY" ] && echo aof_rewrite_in_progress:1 && sed -i 1d "$BUSY" && exit
    echo aof_rewrite_in_progress:0 ;;
  BGREWRITEAOF) { [ -s "$BUSY" ] && echo refused || echo rewritten; } >>"$CALLS" ;;
esac; done
"""


def test_at_the_end_the_file_is_rewritten_once_more_though_a_rewrite_runs(tmp_path: Path) -> None:
    calls, busy = tmp_path / "calls", tmp_path / "busy"
    busy.write_text("1\n2\n")
    for name, text in (("redis-server", SERVER), ("redis-cli", CLI)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o700)
    for tier in ("web", "model_server", "operator"):
        (tmp_path / "secrets" / tier).mkdir(parents=True)
    places = {"SECRETS": tmp_path / "secrets", "TMPDIR": tmp_path, "DATA": tmp_path / "data"}
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": calls, "BUSY": busy, **places}
    started = subprocess.Popen(
        [ROOT / "deploy" / "redis" / "start"],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        start_new_session=True,
    )
    try:
        eventually(calls.exists)
        started.terminate()
        started.wait(20)
    finally:
        os.killpg(started.pid, signal.SIGKILL)  # it leaves a `sleep` behind; a container ends with it
    assert calls.read_text().split() == ["began", "rewritten"]
