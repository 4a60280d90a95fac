"""The API as it is described, against the running service: Schemathesis asks, the whole stack answers.

It makes requests from /openapi.json, sound ones and broken ones, follows a polled job to its result, and
checks every answer: status, types, headers, schema; that what is sound is taken and what is not is refused.
"""

import os
import re
import subprocess
import sys
import tomllib

import pytest

from tests.support import ROOT
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

CONFIG = ROOT / "tests" / "e2e" / "schemathesis.toml"


def ask(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Have Schemathesis ask the stack, as schemathesis.toml says."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run"),
            *(f"{stack.url}/openapi.json", "--no-color"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_check_is_left_out() -> None:
    asked = tomllib.loads(CONFIG.read_text("utf-8"))
    assert not {"checks", "operations"} & set(asked)
    assert "enabled" not in str(asked["phases"])


def test_the_service_keeps_what_its_description_promises(stack: Stack) -> None:
    # One that bears every shade: the white of the example in the description would kill the other.
    stack.start("tests.e2e.shades_server", str(stack.executions), "0", "mended", log="model_server")
    eventually(lambda: stack.answers("/readyz?model=shades"), within_s=120)
    done = ask(stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "25 selected / 25 total" in done.stdout
    # The link from a job that was accepted to its result was followed.
    assert int(re.findall(r"API Links: +(\d+) covered", done.stdout)[0]) >= 1, done.stdout
    assert int(re.findall(r"(\d+) generated", done.stdout)[0]) > 100, done.stdout
    assert stack.answers("/readyz?model=shades")
    log = (stack.folder / "web.log").read_text()
    assert "this is a bug" not in log
