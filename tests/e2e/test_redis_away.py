"""Redis away in every way that we know: refused fast and in words, alive throughout, well again by itself."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from broker.connection import connect
from tests.support import http
from tests.support.redis_server import USERS, RedisServer
from tests.support.stack import Stack, shade
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FAST_S = 3.0
"""Far above the second that it takes, far below a socket's minutes."""

Change = Callable[[RedisServer], None]


def _configured(**settings: str) -> Change:
    def change(server: RedisServer) -> None:
        with connect(server.url, timeout_s=5) as client:
            for name, value in settings.items():
                client.config_set(name, value)

    return change


def _become_replica(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        client.replicaof("127.0.0.1", "1")


def _become_master(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        client.replicaof("NO", "ONE")


def _change_passwords(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        for user in USERS:
            client.acl_setuser(user, enabled=True, reset_passwords=True, passwords=["+another"])
        client.execute_command("CLIENT", "KILL", "SKIPME", "yes")


def _change_passwords_back(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        client.acl_load()


def _pause_writes(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        client.client_pause(600_000, all=False)


def _unpause(server: RedisServer) -> None:
    with connect(server.url, timeout_s=5) as client:
        client.client_unpause()


def _run_a_script(server: RedisServer) -> None:
    def spin() -> None:
        with connect(server.url, timeout_s=100) as client, contextlib.suppress(redis.RedisError):
            client.eval("while true do end", 0)

    _configured(**{"lua-time-limit": "100"})(server)
    threading.Thread(target=spin).start()
    with connect(server.url, timeout_s=5) as client:
        eventually(lambda: _is_busy(client))


def _is_busy(client: redis.Redis) -> bool:
    try:
        client.get("x")
    except redis.ResponseError:
        return True
    return False


def _kill_the_script(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url, protocol=2) as client:  # one that gives no name, which is refused
        client.script_kill()


def _signal(number: signal.Signals) -> Change:
    def send(server: RedisServer) -> None:
        assert server.process
        server.process.send_signal(number)

    return send


BACK, TAKES = "Redis is back, after ", "Redis takes it again, after "

AWAY: dict[str, tuple[Change, Change, str, str]] = {
    "stopped": (RedisServer.stop, RedisServer.start, "no connection", BACK),
    "black-holed": (_signal(signal.SIGSTOP), _signal(signal.SIGCONT), "in time", BACK),
    "out of memory": (_configured(maxmemory="1"), _configured(maxmemory="0"), "out of memory", TAKES),
    "its disk full": (RedisServer.fill_disk, RedisServer.free_disk, "append-only file", TAKES),
    "writes paused": (_pause_writes, _unpause, "in time", BACK),
    "busy with a script": (_run_a_script, _kill_the_script, "busy with a script", BACK),
    "a read-only replica": (_become_replica, _become_master, "read-only replica", TAKES),
    "another password": (_change_passwords, _change_passwords_back, "password", TAKES),
}
"""What makes it so, what mends it, a word of the reason, and what the logs say at its end."""


def _predict(stack: Stack, value: int) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    response = http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(value))}, timeout=30)
    return response, time.monotonic() - began


def _told(log: Path) -> list[str]:
    words = ("Trying again", "Such requests get 503", BACK, TAKES)
    return [line for line in log.read_text().splitlines() if any(each in line for each in words)]


@pytest.mark.parametrize("how", AWAY)
def test_requests_are_refused_fast_and_all_recovers(
    how: str, stack: Stack, own_redis: RedisServer, tmp_path: Path
) -> None:
    leave, come_back, word, end = AWAY[how]
    logs = [tmp_path / "web.log", tmp_path / "model_server.log"]
    if how == "out of memory":
        del logs[1]  # its worker frees memory, which Redis takes; tests/chaos/test_full_redis.py
    stack.start_model_server()
    assert _predict(stack, 1)[0].status_code == 200
    leave(own_redis)
    try:
        with ThreadPoolExecutor(16) as pool:
            for response, took_s in pool.map(lambda value: _predict(stack, value), range(16)):
                assert (response.status_code, response.json()["error"]["code"]) == (503, "broker_unavailable")
                assert int(response.headers["Retry-After"]) >= 1
                assert took_s < FAST_S
        assert stack.answers("/healthz")
        ready = http.get(f"{stack.url}/readyz", timeout=30)
        assert ready.status_code == 503
        assert word.lower() not in ready.text.lower()
        # A subscription that hears nothing is given up after two seconds.
        eventually(lambda: all(_told(log) for log in logs), within_s=30)
        # Where connections are closed only the next attempt tells why.
        eventually(lambda: all(word in log.read_text().lower() for log in logs), within_s=30)
    finally:
        come_back(own_redis)
    eventually(lambda: stack.answers("/readyz"), within_s=30)
    eventually(lambda: _predict(stack, 2)[0].status_code == 200, within_s=30)
    with ThreadPoolExecutor(16) as pool:
        # It is over for a web process once every thread that was refused has been served.
        def is_over() -> bool:
            list(pool.map(lambda value: _predict(stack, value), range(16)))
            return all(any(end in line for line in _told(log)) for log in logs)

        eventually(is_over, within_s=30)
    for log in logs:
        assert len(_told(log)) < 10, _told(log)  # 16 requests, and threads that try again five times a second
