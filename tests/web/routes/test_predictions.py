"""Waiting for a job that is polled, its end, and until when its result is kept."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import cast

import pytest
import redis
from werkzeug.test import TestResponse

from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.jobs import JobClient

TTL_S = 60.0


def _accepted(service: Service, prefer: str = "respond-async", *pictures: bytes) -> TestResponse:
    data = form(*(pictures or (png(255),)))
    return service.client.post("/predict", data=data, headers={"Prefer": prefer})


def _waiters(service: Service) -> int:
    jobs: JobClient = service.app.extensions["jobs"]
    return sum(map(len, jobs.replies._waiters.values()))


def _later(service: Service, address: str) -> Callable[[], TestResponse]:
    return lambda: service.app.test_client().get(address)


def _left_s(response: TestResponse) -> float:
    expires_at = datetime.fromisoformat(response.get_json()["expires_at"])
    return (expires_at - datetime.now(UTC)).total_seconds()


def test_a_poller_that_waits_is_woken_by_the_message(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without its look-ups only the message can wake it.
    service.app.extensions["jobs"].replies._reread_s = 1000.0
    monkeypatch.setattr("web.jobs.LOOK_AT_CLIENT_S", 1000.0)
    address = _accepted(service).headers["Location"]
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(_later(service, f"{address}&wait=15")) for _ in range(2)]
        eventually(lambda: _waiters(service) == 2)
        service.start_worker()
        began = time.monotonic()
        responses = [answer.result(20) for answer in answers]
    assert time.monotonic() - began < 10
    assert [each.status_code for each in responses] == [200, 200]
    assert responses[0].get_json()["predictions"][0]["label"] == "bright"
    assert _waiters(service) == 0


@pytest.mark.parametrize("how", ["&wait=1", "Prefer"])
def test_a_wait_without_a_result_ends_by_202(service: Service, how: str) -> None:
    address = _accepted(service).headers["Location"]
    began = time.monotonic()
    if how == "Prefer":
        response = service.client.get(address, headers={"Prefer": "wait=1"})
    else:
        response = service.client.get(address + how)
    assert 0.9 < time.monotonic() - began < 5
    assert (response.status_code, response.get_json()["location"]) == (202, address)
    assert response.headers.get("Preference-Applied") == ("wait=1" if how == "Prefer" else None)


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.3"}])
def test_nobody_waits_for_longer_than_a_request(service: Service) -> None:
    address = _accepted(service).headers["Location"]
    began = time.monotonic()
    assert service.client.get(f"{address}&wait=5000").status_code == 202
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("wait", ["-1", "1.5", "x", "86401"])
def test_a_wait_that_is_no_number_is_refused(service: Service, wait: str) -> None:
    address = _accepted(service).headers["Location"]
    response = service.client.get(f"{address}&wait={wait}")
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "bad_request")
    assert response.get_json()["error"]["message"].startswith(f"wait={wait!r}")


def test_the_query_counts_before_the_header(service: Service) -> None:
    address = _accepted(service).headers["Location"]
    response = service.client.get(f"{address}&wait=0", headers={"Prefer": "wait=19"})
    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize("environment", [{"WEB_THREADS": "9", "REQUEST_TIMEOUT_S": "60"}])
def test_one_that_waits_has_a_place_and_a_poll_at_once_needs_none(service: Service) -> None:
    address = _accepted(service).headers["Location"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_later(service, f"{address}&wait=30"))
        eventually(lambda: _waiters(service) == 1)
        refused = service.client.get(f"{address}&wait=1")
        assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "overloaded")
        assert service.client.get(address).status_code == 202
        service.start_worker()
        assert waiting.result(20).status_code == 200
    assert service.client.get(f"{address}&wait=1").status_code == 200


@pytest.mark.parametrize("environment", [{"WEB_THREADS": "9", "REQUEST_TIMEOUT_S": "60"}])
def test_a_client_that_goes_away_gives_its_place_back_and_the_job_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = _accepted(service).headers["Location"]
    gone = threading.Event()
    monkeypatch.setattr("web.routes.predict.is_client_gone", gone.is_set)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_later(service, f"{address}&wait=50"))
        eventually(lambda: _waiters(service) == 1)
        gone.set()
        waiting.result(20)
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: False)
    service.start_worker()
    assert service.client.get(f"{address}&wait=20").status_code == 200


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "0.4"}])
def test_a_wait_ends_with_the_job_s_deadline(service: Service) -> None:
    address = _accepted(service).headers["Location"]
    seen: list[int] = []

    def ended() -> bool:
        seen.append(service.client.get(f"{address}&wait=15").status_code)
        return seen[-1] != 202

    began = time.monotonic()
    eventually(ended)
    assert (seen[-1], len(seen) <= 3) == (504, True)
    assert time.monotonic() - began < 10


def test_a_job_may_be_waited_for_at_once(running: Service) -> None:
    response = _accepted(running, "respond-async, wait=15", png(0), png(255))
    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "respond-async, wait=15"
    answers = response.get_json()["results"]
    assert [each["predictions"][0]["label"] for each in answers] == ["dark", "bright"]
    for each in answers:
        assert running.client.get(f"/predictions/{each['id']}?model={MODEL}").status_code == 200


def test_what_does_not_come_in_that_time_is_polled(service: Service) -> None:
    response = _accepted(service, 'respond-async, wait="1"')
    assert (response.status_code, response.headers["Preference-Applied"]) == (202, "respond-async, wait=1")
    service.start_worker()
    assert service.client.get(f"{response.headers['Location']}&wait=15").status_code == 200


@pytest.mark.parametrize("wait", ["x", "-1", ""])
def test_a_preference_that_cannot_be_read_is_passed_over(service: Service, wait: str) -> None:
    response = _accepted(service, f"respond-async, wait={wait}")
    assert (response.status_code, response.headers["Preference-Applied"]) == (202, "respond-async")


def test_a_job_that_nobody_heard_of_ends_with_its_client(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: _waiters(service) > 0)
    _accepted(service, "respond-async, wait=15")
    assert client.keys(keys.of(MODEL).result("*")) == []


def test_a_job_that_is_cancelled_is_not_run(service: Service, client: redis.Redis, keys: Keys) -> None:
    cancelled, stays = (
        _accepted(service, "respond-async", png(each)).headers["Location"] for each in (0, 255)
    )
    deleted = service.client.delete(cancelled)
    assert (deleted.status_code, deleted.data) == (204, b"")
    assert service.client.get(cancelled).status_code == 404
    assert service.client.delete(cancelled).status_code == 404
    service.start_worker()
    assert service.client.get(f"{stays}&wait=15").status_code == 200
    eventually(lambda: client.llen(keys.of(MODEL).queue) == 0)
    assert service.engine.batches == [1]


def test_whoever_waits_for_it_is_told_that_it_is_cancelled(service: Service) -> None:
    address = _accepted(service).headers["Location"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_later(service, f"{address}&wait=15"))
        eventually(lambda: _waiters(service) == 1)
        assert service.client.delete(address).status_code == 204
        assert waiting.result(10).status_code == 404


def test_a_result_may_be_dropped(running: Service) -> None:
    answer = _accepted(running, "respond-async, wait=15").get_json()
    address = f"/predictions/{answer['id']}?model={MODEL}"
    assert running.client.delete(address).status_code == 204
    assert running.client.get(address).status_code == 404


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/predictions/0190c0de-4c68-47e9-877e-25cf1868a37d", "not_found"),
        ("/predictions/x", "not_found"),
        ("/predictions/0190c0de-4c68-47e9-877e-25cf1868a37d?model=other", "unknown_model"),
    ],
)
def test_there_must_be_a_job_to_cancel(service: Service, path: str, code: str) -> None:
    response = service.client.delete(path)
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, code)


@pytest.mark.slow
def test_answers_say_until_when_a_result_is_kept(service: Service, client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(service)
    address = accepted.headers["Location"]
    pending = service.client.get(address)
    for response in (accepted, pending):
        assert 300 + TTL_S - 15 < _left_s(response) <= 300 + TTL_S + 0.1
        assert response.get_json()["expires_at"].endswith("Z")
        assert "Expires" not in response.headers
    service.start_worker()
    done = service.client.get(f"{address}&wait=15")
    left_s = client.pttl(keys.of(MODEL).result(done.get_json()["id"])) / 1000
    assert abs(_left_s(done) - left_s) < 0.5
    assert TTL_S - 10 < left_s <= TTL_S


def test_a_waited_answer_has_no_such_time(running: Service) -> None:
    assert "expires_at" not in running.client.post("/predict", data=form(png(0))).get_json()


def _silence(service: Service, client: redis.Redis, keys: Keys) -> None:
    """No worker of the model has lived for a thousand seconds."""
    seconds, _ = client.time()
    for worker in cast("list[bytes]", client.zrange(keys.of(MODEL).workers, 0, -1)):
        client.zadd(keys.of(MODEL).workers, {worker: seconds - 1000})
    jobs: JobClient = service.app.extensions["jobs"]
    jobs.registry.models(fresh=True)


def test_a_polled_job_is_accepted_without_a_worker_and_answered_by_the_first(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    _silence(service, client, keys)
    assert service.client.post("/predict", data=form(png(0))).status_code == 503
    accepted = _accepted(service)
    assert accepted.status_code == 202
    jobs: JobClient = service.app.extensions["jobs"]
    jobs.registry.models(fresh=True)
    (model,) = (each for each in service.client.get("/models").get_json()["models"] if each["model"] == MODEL)
    assert (model["state"], model["queue_length"]) == ("no worker", 1)
    service.start_worker()
    done = service.client.get(f"{accepted.headers['Location']}&wait=15")
    assert (done.status_code, done.get_json()["predictions"][0]["label"]) == (200, "bright")


@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "3"}])  # polled jobs have three quarters of it
def test_without_a_worker_the_queue_has_its_bound(service: Service, client: redis.Redis, keys: Keys) -> None:
    _silence(service, client, keys)
    assert [_accepted(service).status_code for _ in range(3)] == [202, 202, 503]


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "0.3"}])
def test_without_a_worker_a_polled_job_ends_at_its_deadline(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    _silence(service, client, keys)
    address = _accepted(service).headers["Location"]
    eventually(lambda: service.client.get(address).status_code == 504)
    assert service.client.get(address).status_code == 404


def test_a_model_without_a_worker_is_listed_while_jobs_wait_for_it(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    _silence(service, client, keys)
    jobs: JobClient = service.app.extensions["jobs"]
    monkeypatch.setattr(jobs.models, "_expected", ())

    def listed() -> bool:
        jobs.registry.models(fresh=True)
        return MODEL in {each["model"] for each in service.client.get("/models").get_json()["models"]}

    assert not listed()
    _accepted(service)
    assert listed()


def test_a_model_that_nobody_announced_is_not_polled_for(service: Service) -> None:
    response = service.client.post(
        "/predict?model=never", data=form(png(0)), headers={"Prefer": "respond-async"}
    )
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
