"""Webhooks through real processes: web processes are killed, receivers are down; each end is announced."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from broker.connection import connect
from broker.keys import Keys
from tests.e2e.shades_server import RAISE
from tests.support import http
from tests.support.receivers import SECRET, Call, Receiver, receiving
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, free_port, shade
from tests.support.waiting import eventually
from web.webhooks.deliverer import DeliverySchedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LEASE_S = DeliverySchedule().lease_s


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204."""
    with receiving() as running:
        yield running


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """The service's processes, none of which has been started; ports of this machine are listed."""
    made = Stack(tmp_path, own_redis.url)
    made.environment |= {"WEBHOOK_SECRET": SECRET, "WEB_WORKERS": "1"}
    yield made
    made.stop()
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    for secret in ("hidden", SECRET.removeprefix("whsec_")):
        assert secret not in logs


def _start(stack: Stack, port: int, *, delay_s: float = 0.0) -> "subprocess.Popen[bytes]":
    """Start both tiers; receivers at that port are listed. The web tier's master."""
    stack.environment["WEBHOOK_HOSTS"] = f"http://127.0.0.1:{port}"
    master = stack.start_web()
    stack.start_model_server(delay_s=delay_s)
    return master


def _kill(master: "subprocess.Popen[bytes]") -> None:
    """As kill -9 of the whole web tier."""
    processes = [*psutil.Process(master.pid).children(recursive=True), psutil.Process(master.pid)]
    for process in processes:
        process.kill()
    master.wait(20)


def _accepted(stack: Stack, value: int, url: str) -> str:
    """A job with a webhook."""
    files, headers = {"image": ("x.png", shade(value))}, {"X-Request-ID": f"request-{value}"}
    data = {"callback_url": url}
    answer = http.post(f"{stack.url}/predict", files=files, data=data, headers=headers, timeout=30)
    assert answer.status_code == 202
    return str(answer.json()["id"])


def _is_settled(server: RedisServer) -> bool:
    keys = Keys("bw:").of("shades")
    with connect(server.url, timeout_s=5) as client:
        return not client.exists(keys.webhooks, keys.callbacks, keys.undelivered)


def test_a_result_and_a_dead_letter_are_announced_and_verify(
    stack: Stack, receiver: Receiver, own_redis: RedisServer
) -> None:
    _start(stack, receiver.port)
    good, bad = _accepted(stack, 7, receiver.url), _accepted(stack, RAISE, receiver.url)
    eventually(lambda: len(receiver.calls) == 2)
    eventually(lambda: _is_settled(own_redis))
    answers = {call.headers["webhook-id"]: call.verified() for call in receiver.calls}
    assert answers[good]["predictions"][0]["label"] == "7"  # type: ignore[index]
    assert answers[bad]["error"]["code"] == "inference_failed"  # type: ignore[index]
    with connect(own_redis.url, timeout_s=5) as client:
        assert client.llen(Keys("bw:").of("shades").dead) == 1


def test_a_web_tier_that_is_killed_before_the_call_makes_it_when_it_is_back(
    stack: Stack, receiver: Receiver, own_redis: RedisServer
) -> None:
    master = _start(stack, receiver.port, delay_s=2)
    job_id = _accepted(stack, 7, receiver.url)
    eventually(lambda: stack.executed() == [7])
    _kill(master)
    undelivered = Keys("bw:").of("shades").undelivered
    with connect(own_redis.url, timeout_s=5) as client:
        eventually(lambda: bool(client.hexists(undelivered, job_id)))
    assert receiver.calls == []
    stack.start_web()
    eventually(lambda: _is_settled(own_redis))
    assert receiver.ids == [job_id]


def test_a_web_tier_that_is_killed_in_mid_call_calls_again_with_the_same_id(
    stack: Stack, receiver: Receiver, own_redis: RedisServer
) -> None:
    released = threading.Event()

    def hold(_: Call) -> tuple[int, dict[str, str]]:
        if len(receiver.calls) == 1:
            released.wait(60)
        return 204, {}

    receiver.answer = hold
    master = _start(stack, receiver.port)
    job_id = _accepted(stack, 7, receiver.url)
    eventually(lambda: len(receiver.calls) == 1)
    _kill(master)
    stack.start_web()
    eventually(lambda: _is_settled(own_redis), within_s=LEASE_S + 20)
    released.set()
    assert receiver.ids == [job_id] * 2
    assert receiver.calls[1].at - receiver.calls[0].at < LEASE_S + 10
    assert all(call.verified() for call in receiver.calls)


def test_a_receiver_that_comes_up_seconds_later_gets_its_call(stack: Stack, own_redis: RedisServer) -> None:
    port = free_port()
    _start(stack, port)
    job_id = _accepted(stack, 7, f"http://127.0.0.1:{port}/done?token=hidden")
    began = time.monotonic()
    with connect(own_redis.url, timeout_s=5) as client:
        callbacks = Keys("bw:").of("shades").callbacks
        # It was tried at once, and a second later.
        eventually(lambda: b'"attempts":2' in (client.hget(callbacks, job_id) or b""))
    with receiving(port) as receiver:
        eventually(lambda: _is_settled(own_redis))
    assert receiver.ids == [job_id]
    assert time.monotonic() - began > 3
    said = f"shades: job {job_id} can't be announced to http://127.0.0.1:{port} yet: "
    (line,) = [line for line in (stack.folder / "web.log").read_text().splitlines() if said in line]
    assert "request-7" in line


def test_a_web_tier_that_is_stopped_ends_its_call(
    stack: Stack, receiver: Receiver, own_redis: RedisServer
) -> None:
    def slowly(_: Call) -> tuple[int, dict[str, str]]:
        time.sleep(2)
        return 204, {}

    receiver.answer = slowly
    master = _start(stack, receiver.port)
    _accepted(stack, 7, receiver.url)
    eventually(lambda: len(receiver.calls) == 1)
    master.terminate()
    assert master.wait(30) == 0
    assert _is_settled(own_redis)


def test_hosts_without_a_secret_stop_the_start(tmp_path: Path, own_redis: RedisServer) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["WEBHOOK_HOSTS"] = "hooks.example.org"
    process = stack.start("gunicorn", "-c", "web/gunicorn.conf.py", log="web")
    assert process.wait(60) != 0
    assert "WEBHOOK_HOSTS is set, but WEBHOOK_SECRET is not" in (tmp_path / "web.log").read_text()
