"""What a request waits for, how long, and what it leaves when it ends otherwise."""

import dataclasses
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient

from broker.admission import LENGTH_VALID_S
from broker.errors import BrokerUnavailable, Overloaded
from broker.keys import Keys
from broker.messages import Job, Result
from broker.producer import Producer
from pictures import fit
from pictures.fit import PreparedPicture
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.fair_semaphore import FairSemaphore
from web.jobs import ClientGone, JobClient, JobOptions
from web.routes.predict import is_client_gone
from web.server import capacity
from web.server.answer_socket import SERVED, AnswerSocket


def _waiters(service: Service) -> int:
    return len(service.app.extensions["jobs"].replies._waiters)


def _status(http: FlaskClient, picture: bytes) -> int:
    return int(http.post("/predict", data=form(picture)).status_code)


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.3"}])
def test_at_the_deadline_the_client_has_its_504_and_the_job_is_cancelled(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    response = service.client.post("/predict", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (504, "deadline_passed")
    assert client.keys(keys.of(MODEL).result("*")) == []
    service.start_worker()
    eventually(lambda: client.llen(keys.of(MODEL).queue) == 0)
    assert service.engine.batches == []


def test_nobody_waits_on_after_an_answer(running: Service) -> None:
    running.client.post("/predict", data=form(png(0), png(255), b"bad"))
    assert _waiters(running) == 0


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.1"}])
def test_nobody_waits_on_after_a_deadline(service: Service) -> None:
    assert service.client.post("/predict", data=form(png(0))).status_code == 504
    assert _waiters(service) == 0


def test_nobody_waits_on_after_a_refusal(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(Producer, "enqueue", away)
    response = service.client.post("/predict", data=form(png(0)))
    assert response.status_code == 503
    assert _waiters(service) == 0


def test_what_was_accepted_before_an_error_of_ours_is_cancelled(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = fit.prepare, []

    def fail_the_second(*args: object, **how: object) -> object:
        calls.append(args)
        return prepare(*args, **how) if len(calls) == 1 else 1 / 0  # type: ignore[arg-type]

    monkeypatch.setattr(fit, "prepare", fail_the_second)
    response = service.client.post("/predict", data=form(png(0), png(1)))
    assert response.status_code == 500
    assert _waiters(service) == 0
    assert client.keys(keys.of(MODEL).result("*")) == []


def test_a_redis_that_hangs_is_found_out_once_for_all_pictures(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def away(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(Producer, "enqueue", away)
    response = service.client.post("/predict", data=form(*[png(0)] * 5))
    assert [each["error"]["code"] for each in response.get_json()["results"]] == ["broker_unavailable"] * 5
    assert len(tried) == 1


def test_when_the_client_has_gone_none_of_its_pictures_is_waited_for(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []

    def gone() -> bool:
        looks.append(len(looks) >= 2)  # after all three were submitted
        return looks[-1]

    monkeypatch.setattr("web.routes.predict.is_client_gone", gone)
    service.client.post("/predict", data=form(*[png(0)] * 3))
    assert looks == [False, False, True]
    assert client.keys(keys.of(MODEL).result("*")) == []


def test_when_the_client_has_gone_the_rest_of_its_pictures_is_not_submitted(
    service: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueued, enqueue = [], Producer.enqueue

    def counted(self: Producer, model: str, job: Job, *more: Any) -> str:  # noqa: ANN401 - as they come
        enqueued.append(job.id)
        return enqueue(self, model, job, *more)

    monkeypatch.setattr(Producer, "enqueue", counted)
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: True)
    service.client.post("/predict", data=form(*[png(0)] * 3))
    assert len(enqueued) == 1
    assert client.keys(keys.of(MODEL).result("*")) == []


def _taken(decoders: FairSemaphore) -> ExitStack:
    """A context: all of its places are taken, until it is closed."""
    taken = ExitStack()
    while taken.enter_context(decoders.place(timeout_s=0)):
        pass
    return taken


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.3"}])
def test_a_picture_waits_for_its_decoding_no_longer_than_for_its_answer(service: Service) -> None:
    with _taken(service.app.extensions["jobs"]._decoders):
        response = service.client.post("/predict", data=form(png(0)))
        assert (response.status_code, response.get_json()["error"]["code"]) == (503, "overloaded")
    assert service.client.post("/predict", data=form(png(0))).status_code == 504


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "4"}])
def test_who_waited_for_a_decoder_is_told_at_once_that_redis_is_away(running: Service) -> None:
    """Each found it out in 0.9 s of its own, one after the other: of 64 the last was told after 10 s."""
    jobs: JobClient = running.app.extensions["jobs"]
    with ThreadPoolExecutor(1) as threads, _taken(jobs._decoders) as taken:
        answer = threads.submit(running.app.test_client().post, "/predict", data=form(png(0)))
        eventually(lambda: len(jobs._decoders) == 1)
        threading.Event().wait(LENGTH_VALID_S)
        jobs._away_until = time.monotonic() + 60
        taken.close()
        assert answer.result().get_json()["error"]["code"] == "broker_unavailable"
    # Who had not to wait asks Redis.
    assert running.client.post("/predict", data=form(png(0))).status_code == 200


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.3"}])
def test_an_annotated_picture_waits_for_a_decoder_as_well(service: Service) -> None:
    jobs: JobClient = service.app.extensions["jobs"]
    with _taken(jobs._decoders), pytest.raises(Overloaded, match="being decoded"):
        jobs.draw(png(0), Result("", "", ""), started_at=time.monotonic())
    for _ in range(2):  # each gives its decoder back
        assert jobs.draw(png(0), Result("", "", ""), started_at=time.monotonic()).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "2", "REQUEST_TIMEOUT_S": "4"}])
def test_those_that_wait_for_a_decoder_are_judged_again_when_it_is_their_turn(
    service: Service,
) -> None:
    decoders = service.app.extensions["jobs"]._decoders
    sent = 8 * capacity.usable_cores() + 4
    with ThreadPoolExecutor(sent) as threads, _taken(decoders) as taken:
        # The queue is empty: each of them is let in.
        answers = [threads.submit(_status, service.app.test_client(), png(0)) for _ in range(sent)]
        eventually(lambda: len(decoders) == sent)
        threading.Event().wait(LENGTH_VALID_S)
        taken.close()
        statuses = sorted(answer.result() for answer in answers)
    # Nobody runs them. Beyond QUEUE_LIMIT come those that are decoded, or on their way, at that moment.
    assert 2 <= statuses.count(504) <= sent // 2
    assert statuses.count(503) == sent - statuses.count(504)


def test_a_result_that_came_before_the_deadline_is_given_after_it(service: Service) -> None:
    jobs: JobClient = service.app.extensions["jobs"]
    choice = jobs.models.choose(MODEL)  # the first asks Redis, which takes its time on a busy machine
    options = JobOptions(time.monotonic(), time.monotonic() + 0.5)
    submitted = jobs.submit(choice, png(0), options, top=1)
    assert submitted.waiter is not None
    result = Result(id=submitted.job.id, model=MODEL, model_version="v1")
    submitted.waiter.put(result)
    eventually(lambda: time.monotonic() > submitted.wait_until)
    assert jobs.wait(submitted, is_client_gone=lambda: False) == result


def test_a_client_is_gone_once_it_has_closed_and_not_before() -> None:
    app = Flask("gone")
    ours, theirs = socket.socketpair()
    with ours, theirs, app.test_request_context(environ_overrides={"gunicorn.socket": ours}):
        assert not is_client_gone()
        theirs.sendall(b"the next request")
        assert not is_client_gone()
        assert ours.recv(100) == b"the next request"
        theirs.close()
        assert is_client_gone()
    with app.test_request_context():
        assert not is_client_gone()


def test_the_loop_wakes_a_request_whose_client_has_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.jobs.LOOK_AT_CLIENT_S", 1000.0)
    monkeypatch.setattr("web.jobs.WATCHED_LOOK_S", 1000.0)
    jobs: JobClient = service.app.extensions["jobs"]
    options = JobOptions(time.monotonic(), time.monotonic() + 60)
    submitted = jobs.submit(jobs.models.choose(MODEL), png(0), options, top=1)
    closed, ended = threading.Event(), threading.Event()

    def wait(client: AnswerSocket) -> None:
        SERVED.set(client)
        with pytest.raises(ClientGone):
            jobs.wait(submitted, is_client_gone=closed.is_set)
        ended.set()

    with AnswerSocket() as client:
        waiting = threading.Thread(target=wait, args=(client,))
        waiting.start()
        eventually(lambda: client.on_input is not None)
        client.note_input()  # bytes, and not the end
        assert not ended.wait(0.1)
        closed.set()
        client.note_input()
        assert ended.wait(10)
        waiting.join()


def test_nothing_sleeps_between_a_picture_and_its_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With every fallback look-up beyond the deadline, only wake-ups can bring the answer in time.
    monkeypatch.setattr("model_server.serving.worker.IDLE_S", 4.0)
    monkeypatch.setattr("web.jobs.LOOK_AT_CLIENT_S", 1000.0)
    service.app.extensions["jobs"].replies._reread_s = 1000.0
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("something sleeps"))
    service.start_worker()
    for value in (0, 128, 255):
        response = service.client.post("/predict", data=png(value), content_type="image/png")
        assert response.status_code == 200


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.5"}])
def test_past_the_deadline_nothing_more_is_decoded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[float] = []
    prepare = fit.prepare

    def slowly(*arguments: Any, **options: Any) -> PreparedPicture:  # noqa: ANN401
        decoded.append(time.monotonic())
        time.sleep(0.3)
        return prepare(*arguments, **options)

    monkeypatch.setattr("pictures.fit.prepare", slowly)
    answers = service.client.post("/predict", data=form(*[png(0)] * 5)).get_json()["results"]
    assert len(decoded) == 2
    assert {each["error"]["code"] for each in answers} == {"deadline_passed"}
    assert "send fewer at once" in answers[-1]["error"]["message"]


@pytest.mark.parametrize("environment", [{"WEB_THREADS": "16", "REQUEST_TIMEOUT_S": "60"}])
def test_one_model_s_requests_leave_places_to_others(
    service: Service, client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Of eight places six are a model's where there is another, and that gets the rest."""
    jobs: JobClient = service.app.extensions["jobs"]
    other = fakes.unregistered_worker(
        client, keys, dataclasses.replace(fakes.spec(tmp_path), name="other"), FakeEngine
    )
    other.registration.ensure()
    jobs.registry.models(fresh=True)
    threads = [
        threading.Thread(target=lambda: service.app.test_client().post("/predict", data=form(png(0))))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(jobs.replies._waiters) == 6)
    refused = service.client.post("/predict", data=form(png(0)))
    assert refused.status_code == 503
    assert "6 requests for tiny" in refused.get_json()["error"]["message"]
    assert service.client.post("/predict?model=other", data=form(b"no picture")).status_code == 400
    service.start_worker()
    for thread in threads:
        thread.join()
    assert service.client.post("/predict", data=form(png(0))).status_code == 200
    other.leave()
