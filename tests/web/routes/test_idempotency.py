"""`Idempotency-Key`: the same request again is the same job, and another one is refused."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis
from werkzeug.test import TestResponse

from broker.keys import Keys
from broker.producer import RequestName
from pictures import fit
from pictures.fit import PreparedPicture
from tests.support import fakes
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.fair_semaphore import FairSemaphore
from web.jobs import JobClient

KEY = "order-4711/1"


def _post(
    service: Service, *pictures: bytes, key: str = KEY, query: str = "", **headers: str
) -> TestResponse:
    return service.app.test_client().post(
        f"/predict{query}",
        data=form(*(pictures or (png(255),))),
        headers={"Idempotency-Key": key, **headers},
    )


def _polled(service: Service, *pictures: bytes, **how: str) -> TestResponse:
    return _post(service, *pictures, Prefer="respond-async", **how)


def _waiters(service: Service) -> int:
    jobs: JobClient = service.app.extensions["jobs"]
    return sum(map(len, jobs.replies._waiters.values()))


def _queue(client: redis.Redis, keys: Keys) -> int:
    return client.llen(keys.of(MODEL).queue) + client.llen(keys.of(MODEL).polled)


def test_a_repeat_is_told_of_the_same_pending_job_and_then_of_its_result(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    first, again = _polled(service), _polled(service)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.headers["Location"] == again.headers["Location"]
    assert _queue(client, keys) == 1
    service.start_worker()
    done = service.client.get(f"{first.headers['Location']}&wait=15")
    stored = _polled(service)
    assert stored.status_code == 200
    assert stored.get_json()["id"] == done.get_json()["id"]
    assert stored.get_json()["predictions"] == done.get_json()["predictions"]
    # A client that waits gets the same.
    assert _post(service).get_json()["id"] == done.get_json()["id"]
    assert service.engine.batches == [1]


def test_two_that_wait_have_one_job(service: Service, client: redis.Redis, keys: Keys) -> None:
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(_post, service) for _ in range(3)]
        eventually(lambda: _waiters(service) == 3)
        assert _queue(client, keys) == 1
        service.start_worker()
        responses = [answer.result(20) for answer in answers]
    assert [each.status_code for each in responses] == [200] * 3
    assert len({each.get_json()["id"] for each in responses}) == 1
    assert service.engine.batches == [1]
    assert _waiters(service) == 0


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.3"}])
def test_a_repeat_waits_for_a_polled_job_no_longer_than_for_its_own(service: Service) -> None:
    assert _polled(service).status_code == 202
    late = _post(service)
    assert (late.status_code, late.get_json()["error"]["code"]) == (504, "deadline_passed")


def test_of_two_that_decode_at_once_one_is_enqueued(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, both = fit.prepare, threading.Barrier(2)

    def together(*arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        both.wait(20)
        return prepare(*arguments, **options)

    monkeypatch.setattr("pictures.fit.prepare", together)
    monkeypatch.setattr(service.app.extensions["jobs"], "_decoders", FairSemaphore(2))
    with ThreadPoolExecutor(2) as threads:
        futures: list[Future[TestResponse]] = [threads.submit(_polled, service) for _ in range(2)]
        ids = {each.result(20).get_json()["id"] for each in futures}
    assert len(ids) == 1
    assert _queue(client, keys) == 1


@pytest.mark.parametrize(
    ("pictures", "query"),
    [((png(0),), ""), ((png(255), png(255)), ""), ((png(255),), "?top=1"), ((png(255),), f"?model={MODEL}")],
)
def test_another_request_under_the_same_key_is_refused(
    service: Service, client: redis.Redis, keys: Keys, pictures: tuple[bytes, ...], query: str
) -> None:
    assert _polled(service).status_code == 202
    refused = _polled(service, *pictures, query=query)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert _queue(client, keys) == 1


def test_several_pictures_are_several_jobs_and_the_same_again(running: Service) -> None:
    pictures = (png(0), b"broken", png(255))
    first, again = _post(running, *pictures).get_json(), _post(running, *pictures).get_json()
    ids = [[each.get("id") for each in answer["results"]] for answer in (first, again)]
    assert ids[0] == ids[1]
    assert ids[0][1] is None
    assert len({*ids[0]}) == 3
    assert sum(running.engine.batches) == 2


def test_a_key_is_free_again_once_its_result_is_gone(
    running: Service, client: redis.Redis, keys: Keys
) -> None:
    first = _post(running).get_json()
    client.delete(keys.of(MODEL).result(first["id"]))  # as when its time is over
    other = _post(running, png(0))
    assert other.status_code == 200
    assert other.get_json()["id"] != first["id"]


def test_a_cancelled_job_frees_its_key(service: Service) -> None:
    address = _polled(service).headers["Location"]
    service.client.delete(address)
    assert _polled(service, png(0)).headers["Location"] != address


@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "1"}])
def test_a_refusal_leaves_nothing(service: Service, client: redis.Redis, keys: Keys) -> None:
    assert _post(service, b"broken").status_code == 400
    assert client.keys(keys.of(MODEL).request("*")) == []
    assert _polled(service, png(0), key="other").status_code == 202
    assert _polled(service).status_code == 503
    assert len(client.keys(keys.of(MODEL).request("*"))) == 1
    # A repeat is not refused by the full queue: it adds nothing.
    assert _polled(service, png(0), key="other").status_code == 202


def test_a_job_with_a_key_outlives_its_client(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: _waiters(service) > 0)
    _post(service)
    _post(service, Prefer="respond-async, wait=5")  # a repeat that leaves
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: False)
    service.start_worker()
    assert _post(service).status_code == 200
    assert service.engine.batches == [1]


@pytest.mark.parametrize("environment", [{"RESULT_TTL_S": "5", "ASYNC_TIMEOUT_S": "30"}])
def test_a_name_lives_for_a_minute_longer_than_a_result_may(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    assert _polled(service).status_code == 202
    (name,) = client.keys(keys.of(MODEL).request("*"))
    assert name == keys.of(MODEL).request(f"{KEY}:0").encode()
    assert 80 < client.ttl(name) <= 96


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 129, '"a b"'])
def test_a_key_is_visible_ascii(service: Service, key: str) -> None:
    response = _post(service, key=key)
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "bad_request")


def test_a_key_may_be_in_quotes(service: Service) -> None:
    assert _polled(service).headers["Location"] == _polled(service, key=f'"{KEY}"').headers["Location"]


def test_keys_of_two_models_are_two(client: redis.Redis, keys: Keys) -> None:
    producer = fakes.producer(client, keys)
    name = RequestName(KEY, "digest")
    one, other = fakes.job(), fakes.job()
    assert producer.enqueue("one", one, name) == one.id
    assert producer.enqueue("other", other, name) == other.id
    assert producer.enqueue("one", other, name) == one.id
