"""Several models in one model server and on several: one that is slow, fails or hangs holds up no other."""

import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.connection import connect
from broker.keys import Keys
from model_server.serving.device import PATIENCE_S
from model_server.serving.lease_keeper import EXIT_HUNG
from tests.e2e.told_server import write
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack over a catalogue of this folder's own; its web tier knows of `sound` alone."""
    made = Stack(tmp_path, own_redis.url, "sound")
    made.environment["MODELS_DIR"] = str(tmp_path / "models")
    write(tmp_path / "models" / "sound")
    try:
        made.start_web()
        yield made
    finally:
        made.stop()


def _serve(stack: Stack, *names: str) -> subprocess.Popen[bytes]:
    """Start a model server of these models; wait until all have loaded, or failed to."""
    stack.environment["MODELS"] = ",".join(names)
    server = stack.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: all(_states(stack).get(name) in ("ready", "failed") for name in names), within_s=30)
    return server


def _write(stack: Stack, name: str, **told: object) -> None:
    write(Path(stack.environment["MODELS_DIR"]) / name, **told)  # type: ignore[arg-type]


def _states(stack: Stack) -> dict[str, str]:
    models = http.get(f"{stack.url}/models", timeout=5).json()["models"]
    return {model["model"]: model["state"] for model in models}


def _ask(stack: Stack, model: str, value: int = 1) -> tuple[int, dict[str, Any], float]:
    """Status, body, seconds."""
    began = time.monotonic()
    files = {"image": ("x.png", shade(value))}
    answer = http.post(f"{stack.url}/predict?model={model}", files=files, timeout=60)
    return answer.status_code, answer.json(), time.monotonic() - began


def _label(answer: tuple[int, dict[str, Any], float]) -> str:
    assert answer[0] == 200, answer[1]
    return str(answer[1]["predictions"][0]["label"])


def test_a_model_server_that_is_added_brings_its_models_to_running_frontends(stack: Stack) -> None:
    _serve(stack, "sound")
    _write(stack, "added", mark=20)
    assert _ask(stack, "added")[0] == 404
    added = _serve(stack, "added")
    assert _label(_ask(stack, "added")) == "21"
    assert _label(_ask(stack, "sound")) == "1"
    # Its end is that of its own models.
    added.terminate()
    assert added.wait(20) == 0
    eventually(lambda: _states(stack) == {"sound": "ready", "added": "no worker"})
    assert _label(_ask(stack, "sound")) == "1"


def test_one_that_fails_and_one_that_raises_cost_their_sibling_nothing(stack: Stack) -> None:
    _write(stack, "failing", fails="it can't be had")
    _write(stack, "raising", raises=True)
    _serve(stack, "failing", "raising", "sound")
    assert _states(stack) == {"failing": "failed", "raising": "ready", "sound": "ready"}
    with ThreadPoolExecutor(12) as pool:
        raising = [pool.submit(_ask, stack, "raising", value) for value in range(40)]
        sound = [pool.submit(_ask, stack, "sound", value) for value in range(40)]
        assert {future.result()[1]["error"]["code"] for future in raising} == {"inference_failed"}
        assert [_label(future.result()) for future in sound] == [str(value) for value in range(40)]
    status, body, _ = _ask(stack, "failing")
    assert (status, body["error"]["code"]) == (503, "model_unavailable")


def test_beside_a_slow_one_its_sibling_waits_for_one_call_at_most(stack: Stack) -> None:
    """Half of its requests do. A loaded machine has room for one more call; without an order it is many."""
    delay_s = 0.8  # less than PATIENCE_S: the sibling runs in turn, not beside it
    _write(stack, "slow", delay_s=delay_s)
    stack.environment["BATCH_SIZE"] = "2"  # so that its next batch waits already when one is done
    _serve(stack, "slow", "sound")
    alone_s = statistics.median(_ask(stack, "sound")[2] for _ in range(10))
    with ThreadPoolExecutor(6) as pool:
        slow = [pool.submit(_ask, stack, "slow", value) for value in range(120)]
        eventually(slow[0].done, within_s=30)
        waits = [_ask(stack, "sound")[2] for _ in range(10)]
        for future in slow:
            future.cancel()
    assert statistics.median(waits) < 2 * delay_s + alone_s, (waits, alone_s)


@pytest.mark.parametrize("told", [{"delay_s": 10}, {"hangs": 13}])
def test_beside_one_that_takes_for_ever_its_sibling_waits_no_longer_than_its_patience(
    stack: Stack, own_redis: RedisServer, told: dict[str, Any]
) -> None:
    """Its first request is answered long before that call ends, the later ones need no patience any more."""
    _write(stack, "endless", **told)
    stack.environment["REQUEST_TIMEOUT_S"] = "12"
    _serve(stack, "endless", "sound")
    with ThreadPoolExecutor(1) as pool, connect(own_redis.url, timeout_s=5) as client:
        endless = pool.submit(_ask, stack, "endless", 13)
        eventually(lambda: bool(client.keys(Keys("bw:").of("endless").claims("*"))))
        answers = [_ask(stack, "sound")]
        assert not endless.done()
        answers += [_ask(stack, "sound", value) for value in range(2, 20)]
    assert [_label(answer) for answer in answers] == [str(value) for value in range(1, 20)]
    assert statistics.median(wait for _, _, wait in answers[1:]) < PATIENCE_S, answers


def test_when_one_hangs_its_process_ends_and_its_siblings_lose_nothing(
    stack: Stack, own_redis: RedisServer
) -> None:
    """They leave as on SIGTERM: what they held is in the queue again, and nothing waits for a lease."""
    _write(stack, "hanging", hangs=13)
    _write(stack, "sound", delay_s=0.2)
    stack.environment |= {"MODEL_CALL_MAX_S": "2", "BATCH_SIZE": "2", "LEASE_S": "3"}
    hung = _serve(stack, "hanging", "sound")
    with ThreadPoolExecutor(16) as pool:
        victim = pool.submit(_ask, stack, "hanging", 13)
        sound = [pool.submit(_ask, stack, "sound", value) for value in range(60)]
        assert hung.wait(timeout=20) == EXIT_HUNG
        with connect(own_redis.url, timeout_s=5) as client:
            assert client.keys(Keys("bw:").of("sound").claims("*")) == []
            assert len(client.keys(Keys("bw:").of("hanging").claims("*"))) == 1
        _write(stack, "hanging", hangs=-1)
        _serve(stack, "hanging", "sound")
        answers = [future.result() for future in sound]
        assert _label(victim.result()) == "13"  # recovered, with an attempt
    assert [_label(answer) for answer in answers] == [str(value) for value in range(60)]


def test_a_second_sigterm_and_one_that_hangs_do_not_keep_a_process(stack: Stack) -> None:
    _write(stack, "hanging", hangs=13)
    stack.environment["REQUEST_TIMEOUT_S"] = "3"
    server = _serve(stack, "hanging", "sound")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_ask, stack, "hanging", 13)
        time.sleep(1)
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=20) == 0
        assert time.monotonic() - began < 3 + 2
