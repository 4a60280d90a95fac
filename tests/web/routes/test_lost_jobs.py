"""What a poller is told of a job that is no more: lost, expired, deleted, or never there."""

import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import redis
from prometheus_client import REGISTRY

from broker.clock import RedisClock
from broker.keys import Keys
from broker.lost_jobs import LOOK_S
from broker.replies import Waiter
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually

ASYNC = {"Prefer": "respond-async"}


def _accepted(service: Service) -> str:
    """The address of a job that nobody runs."""
    response = service.client.post("/predict", data=form(png(0)), headers=ASYNC)
    assert response.status_code == 202
    return response.headers["Location"]


def _told(service: Service, address: str, *, method: str = "GET") -> tuple[int, str, str]:
    response = service.client.open(address, method=method)
    error = response.get_json()["error"]
    return response.status_code, error["code"], error["message"]


def _losses() -> float:
    labels = {"model": MODEL, "kind": "polled"}
    return REGISTRY.get_sample_value("batchwire_jobs_lost_total", labels) or 0.0


@pytest.mark.parametrize("way", ["one key", "everything"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_poller_is_told_that_redis_lost_the_job(
    service: Service,
    client: redis.Redis,
    keys: Keys,
    caplog: pytest.LogCaptureFixture,
    way: str,
    method: str,
) -> None:
    address, before = _accepted(service), _losses()
    if way == "everything":
        client.flushall()
    else:
        client.delete(*client.keys(keys.of(MODEL).result("*")))
    lost = (404, "job_lost", "This job was accepted, but Redis has lost it: send the picture again.")
    assert [_told(service, address, method=method) for _ in range(3)] == [lost] * 3
    assert _losses() - before == 1
    lines = [line for line in caplog.messages if "Redis has lost job" in line]
    assert len(lines) == 1
    assert "its poller is told" in lines[0]


@pytest.mark.parametrize("environment", [{"RESULT_TTL_S": "1"}])
def test_a_job_whose_result_may_have_expired_is_not_called_lost(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, before = _accepted(service), _losses()
    clock = service.app.extensions["jobs"]._clock
    now = clock.now
    monkeypatch.setattr(clock, "now", lambda: now() + 2)
    client.delete(*client.keys(keys.of(MODEL).result("*")))
    status, code, message = _told(service, address)
    assert (status, code) == (404, "result_expired")
    assert "is not kept any more: send the picture again" in message
    assert _losses() == before


def test_what_was_deleted_was_not_lost(service: Service) -> None:
    address, before = _accepted(service), _losses()
    assert service.client.delete(address).status_code == 204
    assert _told(service, address)[:2] == (404, "not_found")
    assert _told(service, address, method="DELETE")[:2] == (404, "not_found")
    assert _losses() == before


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "0.2"}])
def test_what_ended_at_its_deadline_was_not_lost(service: Service) -> None:
    address = _accepted(service)
    while (status := service.client.get(f"{address}&wait=1").status_code) == 202:
        pass
    assert status == 504
    assert _told(service, address)[:2] == (404, "not_found")


def test_a_stream_ends_with_the_loss(service: Service, client: redis.Redis, keys: Keys) -> None:
    address = _accepted(service)
    response = service.client.get(address.replace("?", "/events?"), buffered=False)
    events = iter(cast("Iterable[bytes]", response.response))
    assert b"event: pending" in b"".join(next(events) for _ in range(2))
    client.delete(*client.keys(keys.of(MODEL).result("*")))
    (last,) = [each for each in events if b"event:" in each]
    name, data = last.decode().strip().split("\n")
    assert name == "event: gone"
    assert json.loads(data.removeprefix("data: "))["error"]["code"] == "job_lost"
    assert _told(service, address.replace("?", "/events?"))[:2] == (404, "job_lost")


@pytest.mark.slow
def test_a_poller_whose_job_stands_in_no_list_is_told(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    address, before = _accepted(service), _losses()
    assert service.client.get(address).status_code == 202
    client.delete(keys.of(MODEL).polled)
    assert service.client.get(address).status_code == 202  # it is not looked for at each look at its key
    eventually(lambda: service.client.get(address).status_code != 202)
    assert _told(service, address)[:2] == (404, "job_lost")
    assert _losses() - before == 1


@pytest.mark.slow
def test_a_request_whose_job_stands_in_no_list_enqueues_it_again(
    service: Service, client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    queue = keys.of(MODEL).queue
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.app.test_client().post, "/predict", data=form(png(255)))
        eventually(lambda: client.llen(queue) == 1)
        client.delete(queue)
        eventually(lambda: client.llen(queue) == 1)
        service.start_worker()
        answer = waiting.result(30)
    assert (answer.status_code, answer.get_json()["predictions"][0]["label"]) == (200, "bright")
    assert len([line for line in caplog.messages if "has forgotten job" in line]) == 1
    assert len(service.engine.batches) == 1


def test_a_waiting_job_is_looked_for_by_the_clock_of_its_model(
    service: Service, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a cluster's nodes that of the model may be an hour ahead of that of what is no model's."""
    jobs, clock = service.app.extensions["jobs"], RedisClock(by_model=True)
    seconds, _ = client.time()
    clock.of(MODEL).sync(seconds + 3600.0, sent=clock.monotonic(), received=clock.monotonic())
    monkeypatch.setattr(jobs, "_clock", clock)
    waiters, expect = list[Waiter](), jobs.replies.expect

    def noted(model: str, job_id: str) -> Waiter:
        waiters.append(expect(model, job_id))
        return waiters[-1]

    monkeypatch.setattr(jobs.replies, "expect", noted)
    service.start_worker()
    assert service.client.post("/predict", data=form(png(0))).status_code in (200, 504)
    (waiter,) = waiters
    assert waiter.queued is not None
    assert 3500 < waiter.queued.there_at - seconds < 3700


@pytest.mark.slow
def test_a_job_that_runs_for_long_is_not_called_lost(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    is_over = threading.Event()
    service.engine.on_batch = lambda _: is_over.wait(30)
    address = _accepted(service)
    service.start_worker()
    eventually(lambda: client.llen(keys.of(MODEL).polled) == 0)
    statuses = set()
    until = time.monotonic() + 3 * LOOK_S
    while time.monotonic() < until:
        statuses.add(service.client.get(f"{address}&wait=1").status_code)
    is_over.set()
    assert statuses == {202}
    eventually(lambda: service.client.get(address).status_code == 200)
