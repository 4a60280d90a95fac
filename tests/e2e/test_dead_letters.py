"""A picture that kills every model server: put aside, listed by the command, re-queued, and answered."""

import signal
import subprocess

import httpx
import pytest

from tests.e2e.shades_server import ABORT
from tests.support import http, program_fork
from tests.support.redis_server import as_user
from tests.support.stack import MODEL, Stack, shade
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

MAX_ATTEMPTS = 3


def _command(stack: Stack, *arguments: str) -> str:
    environment = stack.environment | {"REDIS_URL": as_user(stack.environment["REDIS_URL"], "operator")}
    done = program_fork.run(["model_server", "dead-letters", *arguments], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _get(stack: Stack, address: str) -> httpx.Response:
    return http.get(stack.url + address, timeout=20)


def _start(stack: Stack, *arguments: str) -> "subprocess.Popen[bytes]":
    """Without waiting until it is ready: a picture may kill it before."""
    return stack.start("tests.e2e.shades_server", str(stack.executions), *arguments, log="model_server")


def test_a_poison_picture_is_put_aside_listed_requeued_and_answered(stack: Stack) -> None:
    assert _command(stack, "list") == f"No dead letters of {MODEL}.\n"
    victim = stack.start_model_server()
    accepted = http.post(
        f"{stack.url}/predict",
        files={"image": ("x.png", shade(ABORT))},
        headers={"Prefer": "respond-async"},
        timeout=20,
    )
    assert accepted.status_code == 202
    address = accepted.headers["Location"]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert victim.wait(timeout=30) == -signal.SIGABRT
        assert stack.executed() == [ABORT] * attempt
        victim = _start(stack)
    eventually(lambda: _get(stack, address).status_code == 500)
    assert stack.executed() == [ABORT] * MAX_ATTEMPTS

    old_id = accepted.json()["id"]
    (line,) = _command(stack, "list").splitlines()
    assert line.split()[:2] == [MODEL, old_id]
    assert line.split()[3:5] == ["8x8x1", "32x24"]
    assert line.endswith(f"Each of {MAX_ATTEMPTS} model servers that ran this picture was lost.")

    # Mended, and with no model server at that moment: it waits for one.
    victim.terminate()
    assert victim.wait(timeout=30) == 0
    said = _command(stack, "requeue", old_id, "--model", MODEL)
    assert f"no model server serves {MODEL}" in said
    fresh_address = said.removeprefix(f"{old_id} is queued again: ").split()[0]
    assert _get(stack, fresh_address).status_code == 202
    _start(stack, "0", "mended")
    eventually(lambda: _get(stack, fresh_address).status_code == 200)
    answer = _get(stack, fresh_address).json()
    assert answer["predictions"][0]["label"] == str(ABORT)
    assert answer["id"] != old_id
    assert fresh_address == f"/predictions/{answer['id']}?model={MODEL}"
    assert stack.executed() == [ABORT] * (MAX_ATTEMPTS + 1)
    assert _get(stack, address).status_code == 500
    assert _command(stack, "list") == f"No dead letters of {MODEL}.\n"
