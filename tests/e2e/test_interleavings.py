"""What can come between two steps of a job, each as a test of its own, on real processes.

The ones that need no process of their own are in tests/conformance; the ones under load in tests/chaos.
"""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from msgspec import structs

from broker.clock import RedisClock
from broker.connection import connect
from broker.keys import Keys
from broker.messages import Result
from broker.producer import PendingJob, Producer
from broker.registry import ModelView, Registry
from model_server.serving.lease_keeper import EXIT_HUNG
from tests.support import fakes, http
from tests.support.keys_left import keys_of_jobs
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack, shade, wait_until_accepted
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def _predict(stack: Stack, value: int) -> httpx.Response:
    return http.post(f"{stack.url}/predict", files={"image": ("x.png", shade(value))}, timeout=20)


def test_a_redis_that_comes_back_without_its_last_writes_costs_no_waiting_request(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """Killed while a write of its append-only file was held back: here it has forgotten everything."""
    stack = Stack(tmp_path, own_redis.url)
    try:
        stack.start_web()
        stack.start_model_server(delay_s=1)
        with ThreadPoolExecutor(8) as pool:
            futures = {value: pool.submit(_predict, stack, value) for value in range(6)}
            wait_until_accepted(own_redis, 6)
            own_redis.stop(kill=True)
            for left in own_redis.folder.glob("*aof*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            own_redis.start()
            answers = {value: future.result() for value, future in futures.items()}
    finally:
        stack.stop()
    assert {value: answer.status_code for value, answer in answers.items()} == dict.fromkeys(range(6), 200)
    labels = {value: answer.json()["predictions"][0]["label"] for value, answer in answers.items()}
    assert labels == {value: str(value) for value in range(6)}


def _labels(answers: dict[int, httpx.Response]) -> dict[int, str]:
    return {value: answer.json()["predictions"][0]["label"] for value, answer in answers.items()}


def test_a_call_of_three_leases_is_not_taken_from_a_worker_that_lives(stack: Stack) -> None:
    """The lease (1 s here) is renewed by a thread that the model's call can't block."""
    stack.start_model_server(delay_s=3.5)
    with ThreadPoolExecutor(4) as pool:
        futures = {value: pool.submit(_predict, stack, value) for value in range(3)}
        eventually(lambda: len(stack.executed()) > 0)
        stack.start_model_server()  # a peer that would recover them, were the lease to lapse
        answers = {value: future.result() for value, future in futures.items()}
    assert _labels(answers) == {value: str(value) for value in range(3)}
    assert sorted(stack.executed()) == [0, 1, 2]


def _enqueued_in_lanes(its: Producer, view: ModelView) -> dict[str, tuple[str, str]]:
    """Twelve shades in three lanes and nobody's, of both kinds: job -> its owner and its label."""
    jobs = {}
    for value, lane in enumerate(["ann@100", "ann@400", "bob@25", ""] * 3):
        job = structs.replace(fakes.job(value=value, shape=view.card.input.shape), lane=lane)
        job = structs.replace(job, polled=value < 8, input=view.card.input.tag)
        jobs[its.enqueue(MODEL, job)] = job.owner, str(value)
    return jobs


def _stored(its: Producer, job_id: str, owner: str) -> Result | PendingJob | None:
    stored = its.look_up(MODEL, job_id, owner=owner)
    return stored.state if stored is not None else None


def test_a_killed_model_server_loses_no_job_of_any_lane(stack: Stack, own_redis: RedisServer) -> None:
    killed = stack.start_model_server(delay_s=1)
    with connect(own_redis.url, timeout_s=5) as client:
        its = fakes.producer(client, Keys("bw:"))
        jobs = _enqueued_in_lanes(its, Registry(client, Keys("bw:"), RedisClock()).models()[MODEL])
        eventually(lambda: len(stack.executed()) > 1)
        killed.kill()
        stack.start_model_server()

        def ended() -> dict[str, tuple[str, str]]:
            stored = {each: _stored(its, each, owner) for each, (owner, _) in jobs.items()}
            results = [each for each in stored.values() if isinstance(each, Result)]
            return {each.id: (each.owner or "", each.predictions[0].label) for each in results}

        eventually(lambda: ended() == jobs)
        left = ("queue", "polled", "turns", "claims", "attempts")
        eventually(lambda: not [name for name in client.keys() if any(each in str(name) for each in left)])


def test_a_call_that_hangs_ends_its_process_and_another_answers(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["MODEL_CALL_MAX_S"] = "1"
    try:
        stack.start_web()
        hung = stack.start_model_server(delay_s=3600)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(_predict, stack, 7)
            eventually(lambda: stack.executed() == [7])
            assert hung.wait(timeout=20) == EXIT_HUNG
            stack.start_model_server()
            answer = future.result()
    finally:
        stack.stop()
    assert (answer.status_code, _labels({7: answer})) == (200, {7: "7"})
    assert stack.executed() == [7, 7]


def test_an_outage_longer_than_every_lease_costs_no_batch(stack: Stack, own_redis: RedisServer) -> None:
    """Two workers come back to lapsed leases: neither may take the other for dead."""
    stack.start_model_server(delay_s=2)
    stack.start_model_server(delay_s=2)
    with ThreadPoolExecutor(8) as pool:
        futures = {value: pool.submit(_predict, stack, value) for value in range(4)}
        wait_until_accepted(own_redis, 4)
        own_redis.stop(kill=True)
        time.sleep(2.5)  # LEASE_S is 1 s here
        own_redis.start()
        answers = {value: future.result() for value, future in futures.items()}
    assert _labels(answers) == {value: str(value) for value in range(4)}
    assert len(stack.executed()) == len(set(stack.executed()))


def test_a_frontend_that_dies_leaves_nothing_behind(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["RESULT_TTL_S"] = "1"
    stack.environment["REQUEST_TIMEOUT_S"] = "6"
    try:
        web = stack.start_web()
        stack.start_model_server(delay_s=2)
        assert _predict(stack, 1).status_code == 200
        with connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(8) as pool:
            eventually(lambda: not client.keys("*result*"))
            before = keys_of_jobs(client)
            futures = [pool.submit(_predict, stack, value) for value in range(6)]
            eventually(lambda: len(stack.executed()) > 1)
            for process in [*psutil.Process(web.pid).children(), psutil.Process(web.pid)]:
                process.kill()
            errors = [error for future in futures if (error := future.exception())]
            assert errors  # else it died with nobody waiting
            cut = {httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError}
            assert {type(error) for error in errors} <= cut
            eventually(lambda: keys_of_jobs(client) <= before, within_s=20)
    finally:
        stack.stop()


def test_an_id_is_unknown_after_its_result_has_expired(own_redis: RedisServer, tmp_path: Path) -> None:
    stack = Stack(tmp_path, own_redis.url)
    stack.environment["RESULT_TTL_S"] = "1"
    try:
        stack.start_web()
        stack.start_model_server()
        accepted = http.post(
            f"{stack.url}/predict",
            files={"image": ("x.png", shade(5))},
            headers={"Prefer": "respond-async"},
            timeout=20,
        )
        address = stack.url + accepted.headers["Location"]
        eventually(lambda: http.get(address).status_code == 200)
        eventually(lambda: http.get(address).status_code == 404)
        assert http.get(address).json()["error"]["code"] == "result_expired"
    finally:
        stack.stop()
