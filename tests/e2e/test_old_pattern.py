"""The eight defects of the pattern that this project comes from (docs/decisions.md), each as a test.

Real Gunicorn, real model servers, a real Redis; only the network is the tests' own. The fourth defect,
polling by sleep, is tested in tests/web/routes/test_waiting.py: it needs the web tier in its own process.
"""

import collections
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from broker import codec
from broker.connection import connect
from broker.keys import Keys
from broker.messages import Job
from tests.e2e.shades_server import ABORT, RAISE
from tests.support import http
from tests.support.keys_left import keys_of_jobs
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack, shade, wait_until_accepted
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def _predict(stack: Stack, value: int) -> httpx.Response:
    return http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(value))}, timeout=40)


def _label(response: httpx.Response) -> int:
    assert response.status_code == 200, response.text
    return int(response.json()["predictions"][0]["label"])


def _send(pool: ThreadPoolExecutor, stack: Stack, values: list[int]) -> dict[int, "Future[httpx.Response]"]:
    return {value: pool.submit(_predict, stack, value) for value in values}


def test_1_two_model_servers_delete_no_unseen_job_and_run_none_twice(stack: Stack) -> None:
    stack.start_model_server(delay_s=0.02)
    stack.start_model_server(delay_s=0.02)
    values = list(range(200))
    with ThreadPoolExecutor(32) as pool:
        answers = {value: _label(future.result()) for value, future in _send(pool, stack, values).items()}
    assert answers == {value: value for value in values}
    assert collections.Counter(stack.executed()) == dict.fromkeys(values, 1)


def test_2_a_model_server_killed_in_mid_batch_costs_no_answer(stack: Stack) -> None:
    victim = stack.start_model_server(delay_s=5)
    values = list(range(20))
    with ThreadPoolExecutor(32) as pool:
        futures = _send(pool, stack, values)
        eventually(lambda: len(stack.executed()) > 0)
        victim.send_signal(signal.SIGKILL)
        stack.start_model_server()
        answers = {value: _label(future.result()) for value, future in futures.items()}
    assert answers == {value: value for value in values}


def test_2_without_any_model_server_a_client_has_its_answer_by_its_deadline(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["REQUEST_TIMEOUT_S"] = "3"
    try:
        stack.start_web()
        stack.start_model_server(delay_s=30).send_signal(signal.SIGKILL)
        response = _predict(stack, 1)
    finally:
        stack.stop()
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_passed")


def test_3_a_client_that_leaves_leaks_no_key(stack: Stack, own_redis: RedisServer) -> None:
    stack.start_model_server(delay_s=3)  # longer than all five take to leave
    with connect(own_redis.url, timeout_s=5) as client:
        for value in range(5):
            with pytest.raises(httpx.ReadTimeout):
                http.post(
                    f"{stack.url}/predict",
                    files={"image": ("x.png", shade(value))},
                    timeout=0.2,
                )
        queue, results = Keys("bw:").of(MODEL).queue, Keys("bw:").of(MODEL).result("*")
        eventually(lambda: client.llen(queue) == 0)
        # Cancelled ones leave no key; one that ran before its client left leaves one with a TTL.
        eventually(lambda: all(0 < client.ttl(name) <= 60 for name in client.keys(results)))
        # The ids' secret outlives every job; -2: it has expired since.
        assert [name for name in client.keys() if client.ttl(name) == -1] == [b"bw:id_secret"]
    # What waited behind the first batch was never run: its client had gone.
    assert len(stack.executed()) < 5


def test_5_a_picture_goes_through_redis_as_uint8() -> None:
    job = Job(
        id="11111111-2222-4333-8444-555555555555",
        image=np.zeros((224, 224, 3), np.uint8),
        accepted_at=0.0,
        deadline=1.0,
        reply_to=None,
        original_size=(1, 1),
        top=5,
        traceparent=None,
    )
    # The pattern's float32 took 802,816 bytes.
    assert len(codec.encode_job(job)) < 201_200


def test_6_a_bad_job_kills_no_model_server_and_a_bad_upload_is_no_500(
    stack: Stack, own_redis: RedisServer
) -> None:
    server = stack.start_model_server()
    with connect(own_redis.url, timeout_s=5) as client:
        client.rpush(Keys("bw:").of(MODEL).queue, b'{"id":"not a job', b"\x00\xff")
    broken = http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(1)[:50])}, timeout=20)
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_image")
    with ThreadPoolExecutor(16) as pool:
        futures = _send(pool, stack, [*range(10), RAISE])
        poison = futures.pop(RAISE).result()
        assert (poison.status_code, poison.json()["error"]["code"]) == (500, "inference_failed")
        assert {value: _label(future.result()) for value, future in futures.items()} == {
            value: value for value in range(10)
        }
    assert server.poll() is None


@pytest.mark.timeout(120)
def test_6_a_picture_that_kills_the_process_is_given_up_and_its_neighbours_succeed(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"REQUEST_TIMEOUT_S": "60", "MAX_ATTEMPTS": "2"}
    over = threading.Event()

    def keep_one_alive() -> None:
        server = stack.start_model_server()
        while not over.wait(0.05):
            if server.poll() is not None:
                server = stack.start("tests.e2e.shades_server", str(stack.executions), log="model_server")

    keeper = threading.Thread(target=keep_one_alive)
    try:
        stack.start_web()
        keeper.start()
        eventually(lambda: len(stack.ready_workers()) == 1)
        with ThreadPoolExecutor(16) as pool:
            futures = _send(pool, stack, [1, 2, 3, ABORT, 4, 5])
            poison = futures.pop(ABORT).result()
            answers = {value: _label(future.result()) for value, future in futures.items()}
    finally:
        over.set()
        keeper.join()
        stack.stop()
    assert answers == {value: value for value in (1, 2, 3, 4, 5)}
    assert (poison.status_code, poison.json()["error"]["code"]) == (500, "inference_failed")
    assert "model servers" in poison.json()["error"]["message"]
    assert stack.executed().count(ABORT) == 2
    with connect(own_redis.url, timeout_s=5) as client:
        assert client.llen(Keys("bw:").of(MODEL).dead) == 1


def test_7_a_full_queue_refuses_in_words_and_stays_bounded(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment |= {"QUEUE_LIMIT": "4", "WEB_THREADS": "64", "BATCH_SIZE": "1"}
    try:
        stack.start_web()
        stack.start_model_server(delay_s=0.2)
        with ThreadPoolExecutor(40) as pool, connect(own_redis.url, timeout_s=5) as client:
            futures = _send(pool, stack, list(range(40)))
            longest = 0
            while not all(future.done() for future in futures.values()):
                longest = max(longest, client.llen(Keys("bw:").of(MODEL).queue))
            responses = [future.result() for future in futures.values()]
    finally:
        stack.stop()
    refused = [each for each in responses if each.status_code == 503]
    assert len(refused) > 10
    assert {each.json()["error"]["code"] for each in refused} == {"overloaded"}
    assert all(1 <= int(each.headers["Retry-After"]) <= 60 for each in refused)
    assert {each.status_code for each in responses} == {200, 503}
    # At most one more than the bound for each web thread that looked at the same moment.
    assert longest <= 4 + 40


def test_8_a_model_server_told_to_stop_finishes_what_it_began(stack: Stack) -> None:
    first = stack.start_model_server(delay_s=1)
    with ThreadPoolExecutor(16) as pool:
        futures = _send(pool, stack, list(range(10)))
        eventually(lambda: len(stack.executed()) > 0)
        for _ in range(20):
            # A second one must not end it either, whichever of the process' threads gets it.
            first.terminate()
            time.sleep(0.01)
        assert first.wait(timeout=20) == 0
        stack.start_model_server()
        assert {value: _label(future.result()) for value, future in futures.items()} == {
            value: value for value in range(10)
        }
    assert collections.Counter(stack.executed()) == dict.fromkeys(range(10), 1)


def test_8_gunicorn_told_to_stop_answers_what_it_accepted(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    try:
        web = stack.start_web()
        stack.start_model_server(delay_s=1)
        with ThreadPoolExecutor(8) as pool:
            futures = _send(pool, stack, list(range(6)))
            wait_until_accepted(own_redis, 6)
            web.terminate()
            assert {value: _label(future.result()) for value, future in futures.items()} == {
                value: value for value in range(6)
            }
        assert web.wait(timeout=20) == 0
    finally:
        stack.stop()


def test_8_alive_and_ready_are_told_apart(stack: Stack) -> None:
    assert stack.answers("/healthz")
    assert not stack.answers("/readyz")
    server = stack.start_model_server()
    eventually(lambda: stack.answers("/readyz"))  # its lease of a second may lapse for a moment
    eventually(lambda: stack.answers(f"/readyz?model={MODEL}"))
    server.send_signal(signal.SIGKILL)
    eventually(lambda: not stack.answers("/readyz"))
    assert stack.answers("/healthz")


def test_a_killed_redis_loses_no_accepted_job(stack: Stack, own_redis: RedisServer) -> None:
    stack.start_model_server(delay_s=1)
    with ThreadPoolExecutor(16) as pool:
        futures = _send(pool, stack, list(range(10)))
        wait_until_accepted(own_redis, 10)
        own_redis.stop(kill=True)
        own_redis.start()
        assert {value: _label(future.result()) for value, future in futures.items()} == {
            value: value for value in range(10)
        }


def test_a_worker_stopped_beyond_its_lease_completes_nothing_late(stack: Stack) -> None:
    sleeper = stack.start_model_server(delay_s=0.5)
    with ThreadPoolExecutor(4) as pool:
        futures = _send(pool, stack, [1, 2])
        eventually(lambda: len(stack.executed()) > 0)
        sleeper.send_signal(signal.SIGSTOP)
        stack.start_model_server()
        answers = {value: future.result() for value, future in futures.items()}
        sleeper.send_signal(signal.SIGCONT)
        assert {value: _label(answer) for value, answer in answers.items()} == {1: 1, 2: 2}
        # It wakes, finds its batch gone, registers anew and serves on.
        eventually(lambda: len(stack.ready_workers()) == 2)
        assert [_label(_predict(stack, value)) for value in range(10, 20)] == list(range(10, 20))


def test_the_number_of_keys_returns_to_where_it_was(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["RESULT_TTL_S"] = "1"
    try:
        stack.start_web()
        stack.start_model_server()
        with connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(16) as pool:
            before = keys_of_jobs(client)
            for future in _send(pool, stack, list(range(100))).values():
                _label(future.result())
            eventually(lambda: keys_of_jobs(client) == before)
    finally:
        stack.stop()


def _raw(stack: Stack, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as client:
        client.sendall(request)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
    return answer


def test_a_broken_chunked_body_is_the_client_s_fault(stack: Stack) -> None:
    stack.start_model_server()
    for kind in (b"image/png", b"multipart/form-data; boundary=x"):
        answer = _raw(
            stack,
            b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: " + kind + b"\r\n\r\nZZZ\r\nabc\r\n0\r\n\r\n",
        )
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"bad_request" in answer


def test_uploads_that_stand_still_are_given_up_and_hold_up_nobody_for_long(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["WEB_THREADS"] = "12"
    silent: list[socket.socket] = []
    try:
        stack.start_web()
        stack.start_model_server()
        for _ in range(30):
            client = socket.create_connection(("127.0.0.1", stack.port), timeout=60)
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
                b"Content-Type: image/png\r\n\r\n" + b"x" * 1000
            )
            silent.append(client)
        # Each gives up or is refused, none keeps a thread: the service answers again by itself.
        eventually(lambda: stack.answers("/healthz"), within_s=50)
        eventually(lambda: _predict(stack, 7).status_code == 200, within_s=50)
        assert silent[0].recv(65536).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 503 "))
    finally:
        for client in silent:
            client.close()
        stack.stop()
