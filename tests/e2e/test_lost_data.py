"""Redis loses everything, or its scripts, under real processes: who is answered, what the others are told."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from broker.connection import connect
from broker.keys import Keys
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack, shade, wait_until_accepted, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEYS = Keys("bw:")


def _predict(stack: Stack, value: int, **headers: str) -> httpx.Response:
    files = {"image": ("x.png", shade(value))}
    return http.post(f"{stack.url}/predict", files=files, headers=headers, timeout=20)


def _label(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["predictions"][0]["label"])


def _lines(stack: Stack, log: str, text: str) -> list[str]:
    return [line for line in (stack.folder / f"{log}.log").read_text().splitlines() if text in line]


def test_after_flushall_requests_are_answered_and_pollers_told(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    with web_up(stack), connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(8) as pool:
        stack.start_model_server(delay_s=1)
        before = stack.ready_workers()
        polled = [_predict(stack, 90 + each, Prefer="respond-async") for each in range(3)]
        assert {each.status_code for each in polled} == {202}
        waiting = [pool.submit(_predict, stack, value) for value in range(6)]
        wait_until_accepted(own_redis, 9)
        client.flushall()
        assert [_label(each.result()) for each in waiting] == [str(value) for value in range(6)]
        lost = [http.get(stack.url + each.headers["Location"]) for each in polled]
        assert [each.json().get("error", {}).get("code") for each in lost] == ["job_lost"] * 3
        # The worker has another lease, and has announced its model, and the contract.
        eventually(lambda: bool(stack.ready_workers() - before))
        assert client.exists(KEYS.contract, KEYS.of(MODEL).card, KEYS.models, KEYS.id_secret) == 4
        assert _label(_predict(stack, 7)) == "7"
        metrics = stack.text("/metrics")
        assert f'batchwire_jobs_lost_total{{kind="polled",model="{MODEL}"}} 3.0' in metrics
        assert f'batchwire_jobs_lost_total{{kind="waiting",model="{MODEL}"}}' in metrics
    assert len(_lines(stack, "web", "Redis has lost what it held for this service")) == 1
    assert len(_lines(stack, "web", "its poller is told")) == 3
    assert _lines(stack, "model_server", "lost its lease: a peer reaped it, or Redis has lost it")
    for log in ("web", "model_server"):
        assert not _lines(stack, log, "Traceback")
        assert not _lines(stack, log, "This is a bug")


def test_flushed_scripts_are_loaded_again_and_no_client_notices(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    with web_up(stack), connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(8) as pool:
        stack.start_model_server()
        answers = [pool.submit(_predict, stack, value) for value in range(100)]
        flushes = 0
        while not all(each.done() for each in answers):
            client.script_flush()
            flushes += 1
            time.sleep(0.01)
        assert [_label(each.result()) for each in answers] == [str(value) for value in range(100)]
        assert flushes > 20
        assert sorted(stack.executed()) == list(range(100))
    for log in ("web", "model_server"):
        assert not _lines(stack, log, "Traceback")
        # A flush may come between a script's load and its call: then it is called again later.
        told = _lines(stack, log, "Redis can't")
        assert [line for line in told if "scripts were flushed" not in line] == []
