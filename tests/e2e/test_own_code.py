"""Code of one's own through real processes: a bad picture, a changed hooks.py, a killed model server."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from model_server.hooks.own_code import FAILED
from tests.model_server.hooks import own_models
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

READS = (
    "\n\ndef postprocess(outputs, context):\n    return {'code': NUMBER, 'size': context['original_size']}\n"
)


@pytest.fixture
def own(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack with two models of kind = "python", one of which dies on a picture of shade 13."""
    stack = Stack(tmp_path, own_redis.url, "own")
    models = tmp_path / "models"
    own_models.write(models / "own", _code(1))
    own_models.write(models / "other", own_models.BRIGHTNESS)
    stack.environment |= {"MODELS_DIR": str(models), "MODELS": "own,other", "MODEL_CALL_MAX_S": "5"}
    with web_up(stack):
        yield stack


def _code(number: int) -> str:
    return own_models.bad_on({13: "os._exit(3)", 14: "1 / 0"}) + READS.replace("NUMBER", str(number))


def _ask(stack: Stack, *shades: int, model: str = "own") -> list[dict[str, Any]]:
    files = [("image", (f"{value}.png", shade(value))) for value in shades]
    url = f"{stack.url}/predict?model={model}"
    body = httpx.post(url, files=files, trust_env=False, timeout=30).json()
    return list(body.get("results", [body]))


def test_own_code_fails_alone_changes_without_a_restart_and_ends_with_its_server(own: Stack) -> None:
    server = own.start("model_server", log="model_server")
    for model in ("own", "other"):
        eventually(lambda model=model: own.answers(f"/readyz?model={model}"), within_s=60)  # type: ignore[misc]
    answers = _ask(own, 100, 13, 200, 14)
    assert [answer["success"] for answer in answers] == [True, False, True, False]
    assert answers[0]["result"] == {"code": 1, "size": [32, 24]}
    assert (answers[0]["engine"], answers[0]["precision"]) == ("python", "own")
    assert {answer["error"]["message"] for answer in answers if not answer["success"]} == {FAILED}
    assert _ask(own, 255, model="other")[0]["predictions"][0]["label"] == "bright"
    log = own.folder / "model_server.log"
    assert "ZeroDivisionError" in log.read_text()

    folder = own.folder / "models" / "own"
    (folder / "hooks.py").write_text(_code(2))
    eventually(lambda: _ask(own, 100)[0]["result"]["code"] == 2, within_s=60)
    (folder / "hooks.py").write_text("import nothing_of_this_name")
    eventually(lambda: "nothing_of_this_name" in own.text("/models"), within_s=60)
    assert _ask(own, 100)[0]["result"]["code"] == 2
    (folder / "hooks.py").write_text(_code(2))

    processes = psutil.Process(server.pid).children(recursive=True)
    eventually(lambda: len([each for each in processes if each.is_running()]) == 2)
    for each in processes:
        assert not {"REDIS_URL", "KEY_PREFIX", "MODELS"} & set(each.environ())
    server.send_signal(signal.SIGKILL)
    server.wait()
    eventually(lambda: not any(map(_runs, processes)), within_s=5)


def test_a_model_server_that_is_told_to_stop_drains_first(own: Stack) -> None:
    shutil.rmtree(own.folder / "models" / "other")
    own.environment["MODELS"] = "own"
    slow = own_models.BRIGHTNESS.replace("bright = ", "import time; time.sleep(0.3); bright = ")
    own_models.write(own.folder / "models" / "own", slow)
    server = own.start("model_server", log="model_server")
    eventually(lambda: own.answers("/readyz?model=own"), within_s=60)
    (process,) = psutil.Process(server.pid).children()
    headers = {"Prefer": "respond-async"}
    files = {"image": ("200.png", shade(200))}
    url = f"{own.url}/predict?model=own"
    job = httpx.post(url, files=files, headers=headers, trust_env=False, timeout=30).json()
    for each in (server, process):
        each.send_signal(signal.SIGTERM)  # as a service manager does
    assert server.wait(30) == 0
    eventually(lambda: not _runs(process), within_s=5)
    # Whether it ran or went back to the queue, it was not lost, and did not fail.
    answer = httpx.get(own.url + job["location"], trust_env=False, timeout=5).json()
    assert answer.get("status") == "pending" or answer["success"]
    assert "failed" not in (own.folder / "model_server.log").read_text()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
