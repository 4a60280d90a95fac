"""Jobs through Gunicorn's processes that are polled, left, cancelled or sent again."""

import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from broker.connection import connect
from broker.keys import Keys
from tests.support import http
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _accepted(stack: Stack, value: int, **headers: str) -> httpx.Response:
    """The 202 for a picture: each web process learns of a model within two seconds of its own."""
    answers: list[httpx.Response] = []

    def is_accepted() -> bool:
        files = {"image": ("x.png", shade(value))}
        headers_sent = {"Prefer": "respond-async", **headers}
        answers.append(http.post(f"{stack.url}/predict", files=files, headers=headers_sent, timeout=30))
        return answers[-1].status_code == 202

    eventually(is_accepted)
    return answers[-1]


def _followers(server: RedisServer, job_id: str) -> int:
    """Web processes in which somebody waits for that job."""
    with connect(server.url, timeout_s=5) as client:
        return int(client.pubsub_numsub(Keys("bw:").results_channel(job_id))[0][1])


def test_a_long_poll_is_woken_in_whichever_process_it_comes_to(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["WEB_WORKERS"] = "2"
    with web_up(stack):
        stack.start_model_server(delay_s=0.3)
        took_s = []
        with ThreadPoolExecutor(4) as pool:
            for value in range(4):
                address = stack.url + _accepted(stack, value).headers["Location"]
                # New connections: either process may take each.
                began = time.monotonic()
                polls = [pool.submit(httpx.get, f"{address}&wait=20", timeout=30) for _ in range(4)]
                answers = [poll.result() for poll in polls]
                took_s.append(time.monotonic() - began)
                assert [each.status_code for each in answers] == [200] * 4
                labels = {each.json()["predictions"][0]["label"] for each in answers}
                assert labels == {str(value)}
    # A look-up of what has waited for a second would take 1.3 s and more at every one.
    assert min(took_s) < 1.2, took_s


def test_a_poller_that_hangs_up_gives_its_place_to_another(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"WEB_THREADS": "9", "REQUEST_TIMEOUT_S": "30"}  # one place
    with web_up(stack):
        worker = stack.start_model_server(delay_s=0.0)
        worker.kill()
        worker.wait(20)
        accepted = _accepted(stack, 7)
        address = accepted.headers["Location"] + "&wait=25"
        with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as client:
            client.sendall(f"GET {address} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            eventually(lambda: _followers(own_redis, accepted.json()["id"]) == 1)
            assert http.get(stack.url + address, timeout=40).status_code == 503
        eventually(lambda: http.get(f"{stack.url}{address[:-2]}1", timeout=40).status_code == 202, within_s=5)
        stack.start_model_server()
        assert http.get(stack.url + address, timeout=40).status_code == 200


def test_a_job_that_is_cancelled_is_not_run(stack: Stack) -> None:
    worker = stack.start_model_server()
    worker.kill()
    worker.wait(20)
    addresses = {value: stack.url + _accepted(stack, value).headers["Location"] for value in range(4)}
    assert httpx.delete(addresses[2], timeout=10).status_code == 204
    stack.start_model_server()
    for value, address in addresses.items():
        assert http.get(f"{address}&wait=10", timeout=20).status_code == (404 if value == 2 else 200)
    assert sorted(stack.executed()) == [0, 1, 3]


def _kill_and_repeat(stack: Stack, master: "subprocess.Popen[bytes]") -> None:
    key = {"Idempotency-Key": "4711"}

    def post() -> httpx.Response:
        files = {"image": ("x.png", shade(5))}
        return http.post(f"{stack.url}/predict", files=files, headers=key, timeout=30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post)
        eventually(lambda: stack.executed() == [5])
        for process in [*psutil.Process(master.pid).children(recursive=True), psutil.Process(master.pid)]:
            process.kill()
        master.wait(20)
        with pytest.raises(httpx.TransportError):
            first.result()
    stack.start_web()
    again = post()
    assert (again.status_code, again.json()["predictions"][0]["label"]) == (200, "5")
    assert stack.executed() == [5]


def test_a_repeat_is_answered_though_the_process_that_accepted_it_was_killed(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    try:
        master = stack.start_web()
        stack.start_model_server(delay_s=3)
        _kill_and_repeat(stack, master)
    finally:
        stack.stop()


def test_from_zero_workers_a_polled_job_waits_for_the_first(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["REQUEST_TIMEOUT_S"] = "1"
    with web_up(stack):
        worker = stack.start_model_server()
        worker.kill()
        worker.wait(20)
        files = {"image": ("x.png", shade(3))}
        eventually(
            lambda: (
                http.post(f"{stack.url}/predict", files=files, timeout=20).json()["error"]["code"]
                == "no_worker"
            )
        )
        accepted = _accepted(stack, 3)
        stack.start_model_server()
        eventually(lambda: http.get(stack.url + accepted.headers["Location"]).status_code == 200)
        assert stack.executed() == [3]


def _names(response: httpx.Response) -> Iterator[str]:
    """The events' names, as they come over the wire."""
    for line in response.iter_lines():
        if line.startswith("event: "):
            yield line.removeprefix("event: ")


def test_events_come_over_the_wire_one_by_one(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    with web_up(stack), http.client(timeout=30) as client:
        stack.start_model_server(delay_s=1.5)
        address = stack.url + _accepted(stack, 7).headers["Location"].replace("?", "/events?")
        with client.stream("GET", address) as response:
            assert response.headers["Transfer-Encoding"] == "chunked"
            names = _names(response)
            assert next(names) == "pending"
            began = time.monotonic()
            assert list(names) == ["done"]
            # Had the worker kept them until the end, both had come at once.
            assert time.monotonic() - began > 0.5
        # The stream had an end: its connection goes on.
        assert client.get(f"{stack.url}/healthz").status_code == 200


def test_a_stream_that_its_client_leaves_gives_its_place_to_another(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"WEB_THREADS": "9", "REQUEST_TIMEOUT_S": "30"}  # one place
    with web_up(stack), http.client(timeout=40) as client:
        worker = stack.start_model_server()
        worker.kill()
        worker.wait(20)
        address = stack.url + _accepted(stack, 7).headers["Location"]
        with client.stream("GET", address.replace("?", "/events?")) as response:
            assert next(_names(response)) == "pending"
            assert http.get(f"{address}&wait=1", timeout=20).status_code == 503
        eventually(lambda: http.get(f"{address}&wait=1", timeout=20).status_code == 202, within_s=5)


def test_a_process_that_stops_ends_its_streams_in_a_request_s_time(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["REQUEST_TIMEOUT_S"] = "3"
    try:
        master = stack.start_web()
        worker = stack.start_model_server()
        worker.kill()
        worker.wait(20)
        address = stack.url + _accepted(stack, 7).headers["Location"].replace("?", "/events?")
        with http.client(timeout=40) as client, client.stream("GET", address) as response:
            names = _names(response)
            assert next(names) == "pending"
            began = time.monotonic()
            master.terminate()
            assert list(names) == []  # and no broken chunk, which httpx would raise for
        master.wait(20)
        assert time.monotonic() - began < 3 + 2 + 1
    finally:
        stack.stop()
