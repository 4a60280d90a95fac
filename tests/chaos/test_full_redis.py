"""A Redis without memory: accepted pictures are answered while it is full, others refused in words."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.connection import connect
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ACCEPTED = 24
LEASE_S = 1.0


def _post(stack: Stack, value: int, *, polled: bool) -> tuple[int, str]:
    """The status, and where the result will be or why not."""
    headers = {"Prefer": "respond-async"} if polled else {}
    files = {"image": ("x.png", shade(value))}
    response = http.post(f"{stack.url}/predict", files=files, headers=headers, timeout=30)
    reason = response.json().get("error", {}).get("message", "")
    return response.status_code, response.headers.get("Location", reason)


def _label(stack: Stack, location: str) -> str:
    """What the network saw; empty while the job waits."""
    response = http.get(stack.url + location, timeout=10)
    assert response.status_code in (200, 202), response.text
    return response.json()["predictions"][0]["label"] if response.status_code == 200 else ""


def test_what_was_accepted_is_answered_while_redis_is_full(tmp_path: Path, own_redis: RedisServer) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["LEASE_S"] = str(LEASE_S)
    with web_up(stack), connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(8) as pool:
        worker = stack.start_model_server()
        os.kill(worker.pid, signal.SIGSTOP)
        waiting = [pool.submit(_post, stack, value, polled=False) for value in range(4)]
        polled = [_post(stack, value, polled=True) for value in range(ACCEPTED)]
        assert {status for status, _ in polled} == {202}
        # Its lease lapses, so the first thing that it needs of a full Redis is another.
        time.sleep(LEASE_S + 0.5)
        client.config_set("maxmemory", "1")
        os.kill(worker.pid, signal.SIGCONT)
        labels: dict[str, str] = {}

        def are_answered() -> bool:
            labels.update({location: _label(stack, location) for _, location in polled})
            return all(labels.values())

        eventually(are_answered, within_s=10)
        assert [labels[location] for _, location in polled] == [str(value) for value in range(ACCEPTED)]
        assert [future.result(30)[0] for future in waiting] == [200] * 4
        assert _post(stack, 1, polled=True) == (
            503,
            "The service can't use its queue at the moment; come back in 1 s.",
        )
        client.config_set("maxmemory", "0")
        eventually(lambda: _post(stack, 1, polled=False)[0] == 200, within_s=10)
    told = [line for line in (tmp_path / "web.log").read_text().splitlines() if "out of memory" in line]
    assert len(told) == 1, told
    assert "Redis can't" not in (tmp_path / "model_server.log").read_text()
