"""Deliveries over a real Redis to real receivers: at least once, again after failures, none held up."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import redis
from msgspec import structs
from prometheus_client import REGISTRY

from broker.consumer import CompletedJob
from broker.keys import Keys
from broker.messages import Failure, Prediction, Result, Webhook
from broker.webhooks import GRACE_S
from tests.support.fakes import MODEL, READY, RESULT_TTL_S, consumer, job, lease, producer
from tests.support.receivers import SECRET, Call, Receiver, receiving
from tests.support.waiting import eventually
from web.webhooks.callback_hosts import CallbackHosts
from web.webhooks.deliverer import Deliverer, DeliverySchedule
from web.webhooks.signing import Signer

pytestmark = pytest.mark.slow  # together they wait for seconds

FAST = DeliverySchedule(look_s=0.05, first_s=0.1, factor=2, most_s=0.4, attempt_s=2, lease_s=3)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204."""
    with receiving() as running:
        yield running


@contextmanager
def _delivering(
    client: redis.Redis, keys: Keys, *hosts: str, schedule: DeliverySchedule = FAST
) -> Iterator[Deliverer]:
    """A context: a process that delivers."""
    deliverer = Deliverer(
        producer(client, keys).webhooks,
        CallbackHosts(hosts or ("http://127.0.0.1:1",)),
        Signer(SECRET),
        result_ttl_s=RESULT_TTL_S,
        schedule=schedule,
    )
    deliverer.start()
    try:
        yield deliverer
    finally:
        deliverer.stop(within_s=5)


def _host(*receivers: Receiver) -> list[str]:
    return [f"http://127.0.0.1:{each.port}" for each in receivers]


def _accept(client: redis.Redis, keys: Keys, url: str, *, deadline_in_s: float = 60.0) -> str:
    """A job with a webhook, in the queue."""
    client.sadd(keys.models, MODEL)
    accepted = structs.replace(job(deadline_in_s=deadline_in_s), polled=True)
    webhook = Webhook(url, accepted.accepted_at, accepted.deadline, "request-1")
    producer(client, keys).enqueue(MODEL, accepted, webhook=webhook)
    return accepted.id


def _complete(client: redis.Redis, keys: Keys, *urls: str, error: Failure | None = None) -> list[str]:
    """Jobs with webhooks that have ended."""
    ids = [_accept(client, keys, url) for url in urls]
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    assert [each.id for each in taker.claim(worker, len(ids))] == ids
    best = () if error else (Prediction("dark", "0", 0.9),)
    ended = [CompletedJob(each, Result(each, MODEL, "v1", predictions=best, error=error)) for each in ids]
    assert taker.complete(worker, ended)
    return ids


def _nothing_is_left(client: redis.Redis, keys: Keys) -> bool:
    own = keys.of(MODEL)
    return not client.exists(own.webhooks, own.callbacks, own.undelivered)


def test_a_result_is_delivered_and_verifies(client: redis.Redis, keys: Keys, receiver: Receiver) -> None:
    (job_id,) = _complete(client, keys, receiver.url)
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: bool(receiver.calls))
        eventually(lambda: _nothing_is_left(client, keys))
    (call,) = receiver.calls
    answer = call.verified()
    assert isinstance(answer, dict)
    assert (answer["success"], answer["id"], answer["model"]) == (True, job_id, MODEL)
    assert answer["predictions"][0]["label"] == "dark"
    assert answer["expires_at"].endswith("Z")
    assert call.path == "/done?token=hidden"
    assert call.headers["webhook-id"] == job_id
    assert call.headers["content-type"] == "application/json"


def test_a_failure_is_delivered_with_the_request_s_id(
    client: redis.Redis, keys: Keys, receiver: Receiver
) -> None:
    _complete(client, keys, receiver.url, error=Failure("inference_failed", "It failed."))
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: bool(receiver.calls))
    answer = receiver.calls[0].verified()
    assert isinstance(answer, dict)
    assert answer["error"] == {"code": "inference_failed", "message": "It failed."}
    assert (answer["success"], answer["request_id"]) == (False, "request-1")


def test_a_deadline_that_passes_without_a_worker_is_delivered(
    client: redis.Redis, keys: Keys, receiver: Receiver
) -> None:
    job_id = _accept(client, keys, receiver.url, deadline_in_s=-GRACE_S)
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: bool(receiver.calls))
        eventually(lambda: _nothing_is_left(client, keys))
    answer = json.loads(receiver.calls[0].body)
    assert (answer["id"], answer["error"]["code"]) == (job_id, "deadline_passed")
    assert not producer(client, keys).is_known(MODEL, job_id)


def test_a_job_that_still_has_time_is_left_alone(client: redis.Redis, keys: Keys, receiver: Receiver) -> None:
    """As after a step of Redis' clock: it is due, and its deadline is not."""
    job_id = _accept(client, keys, receiver.url)
    client.zadd(keys.of(MODEL).webhooks, {job_id: 1.0})
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: (client.zscore(keys.of(MODEL).webhooks, job_id) or 0) > time.time() + 50)
    assert receiver.calls == []
    assert producer(client, keys).is_known(MODEL, job_id)


def test_a_cancelled_job_is_not_delivered(client: redis.Redis, keys: Keys, receiver: Receiver) -> None:
    cancelled = _accept(client, keys, receiver.url, deadline_in_s=-GRACE_S)
    producer(client, keys).cancel(MODEL, cancelled, has_webhook=True)
    with _delivering(client, keys, *_host(receiver)):
        other = _accept(client, keys, receiver.url, deadline_in_s=-GRACE_S)
        eventually(lambda: bool(receiver.calls))
        eventually(lambda: _nothing_is_left(client, keys))
    assert receiver.ids == [other]


@pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 404, 429, 500, 503])
def test_any_other_answer_is_tried_again_under_the_same_id(
    client: redis.Redis, keys: Keys, receiver: Receiver, status: int
) -> None:
    answers = [status, status, 200]
    elsewhere = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    receiver.answer = lambda _: (answers.pop(0), elsewhere)
    (job_id,) = _complete(client, keys, receiver.url)
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: _nothing_is_left(client, keys))
    assert receiver.ids == [job_id] * 3
    assert {call.path for call in receiver.calls} == {"/done?token=hidden"}
    assert all(call.verified() for call in receiver.calls)


def test_410_ends_it(
    client: redis.Redis, keys: Keys, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda _: (410, {})
    _complete(client, keys, receiver.url)
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: _nothing_is_left(client, keys))
    assert len(receiver.calls) == 1
    assert "it answered 410" in caplog.text


def test_it_is_given_up_in_the_end_and_that_is_logged_once_without_a_secret(
    client: redis.Redis, keys: Keys, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answer = lambda _: (500, {})
    (job_id,) = _complete(client, keys, receiver.url)
    with _delivering(client, keys, *_host(receiver), schedule=replace(FAST, last_s=1.0)):
        eventually(lambda: _nothing_is_left(client, keys))
    assert len(receiver.calls) >= 3
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([line for line in lines if f"job {job_id} can't be announced" in line]) == 1
    given_up = [line for line in lines if f"job {job_id} is not announced" in line]
    assert len(given_up) == 1
    assert f"http://127.0.0.1:{receiver.port}: it answered 500, the last of" in given_up[0]
    for secret in ("hidden", SECRET.removeprefix("whsec_")):
        assert secret not in caplog.text


def test_a_receiver_that_comes_up_later_gets_its_call(client: redis.Redis, keys: Keys) -> None:
    with receiving() as away:
        port = away.port
    (job_id,) = _complete(client, keys, f"http://127.0.0.1:{port}/")
    with _delivering(client, keys, f"http://127.0.0.1:{port}"):
        eventually(lambda: b'"attempts":2' in (client.hget(keys.of(MODEL).callbacks, job_id) or b""))
        with receiving(port) as back:
            eventually(lambda: back.ids == [job_id])
            eventually(lambda: _nothing_is_left(client, keys))


def test_calls_are_counted_by_what_became_of_them(
    client: redis.Redis, keys: Keys, receiver: Receiver
) -> None:
    def counts() -> list[float]:
        labels = [{"model": MODEL, "outcome": each} for each in ("delivered", "failed", "given_up")]
        found = [REGISTRY.get_sample_value("batchwire_webhook_attempts_total", each) for each in labels]
        return [each or 0.0 for each in found]

    before, statuses = counts(), iter((503, 204, 410))
    receiver.answer = lambda _: (next(statuses), {})
    with _delivering(client, keys, *_host(receiver)):
        for _ in range(2):
            _complete(client, keys, receiver.url)
            eventually(lambda: _nothing_is_left(client, keys))
    assert [count - old for count, old in zip(counts(), before, strict=True)] == [1, 1, 1]


def test_a_host_that_is_not_listed_any_more_is_not_called(
    client: redis.Redis, keys: Keys, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    _complete(client, keys, receiver.url)
    with _delivering(client, keys):
        eventually(lambda: "WEBHOOK_HOSTS lists it no more" in caplog.text)
    assert receiver.calls == []
    # It may have been a slip: once it is listed again, it is called.
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: len(receiver.calls) == 1)
        eventually(lambda: _nothing_is_left(client, keys))


def test_a_receiver_that_is_slow_does_not_delay_another(client: redis.Redis, keys: Keys) -> None:
    def slow(_: Call) -> tuple[int, dict[str, str]]:
        released.wait(10)
        return 204, {}

    released = threading.Event()
    with receiving() as slow_one, receiving() as quick_one:
        slow_one.answer = slow
        slow_urls = [f"{slow_one.url}&{number}" for number in range(300)]
        _complete(client, keys, *slow_urls, *[quick_one.url] * 20)
        # The slow ones have been due for longer.
        with _delivering(client, keys, *_host(slow_one, quick_one), schedule=replace(FAST, attempt_s=30)):
            eventually(lambda: len(quick_one.calls) == 20)
            assert len(slow_one.calls) == FAST.for_each_host
            released.set()
            eventually(lambda: len(slow_one.calls) == 300)


def test_two_processes_share_the_work_and_call_once_each(client: redis.Redis, keys: Keys) -> None:
    with receiving() as receiver:
        ids = _complete(client, keys, *[receiver.url] * 60)
        with (
            _delivering(client, keys, *_host(receiver)),
            _delivering(client, keys, *_host(receiver)),
        ):
            eventually(lambda: _nothing_is_left(client, keys))
        assert sorted(receiver.ids) == sorted(ids)


def test_what_a_stopped_process_had_taken_another_delivers(client: redis.Redis, keys: Keys) -> None:
    """As after kill -9: a lease, and nobody behind it."""
    with receiving() as receiver:
        (job_id,) = _complete(client, keys, receiver.url)
        store = producer(client, keys).webhooks
        eventually(lambda: bool(store.due(10)))
        assert store.take(store.due(10)[0], lease_s=1) is not None
        began = time.monotonic()
        with _delivering(client, keys, *_host(receiver)):
            eventually(lambda: receiver.ids == [job_id])
        assert receiver.calls[0].at - began > 0.5


def test_a_system_without_room_for_threads_delays_calls_and_takes_no_place_for_good(
    client: redis.Redis, keys: Keys, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failures = threading.Thread.start, list(range(FAST.at_once + 1))

    def start_later(thread: threading.Thread) -> None:
        if thread.name == "webhook" and failures:
            failures.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    ids = _complete(client, keys, *[receiver.url] * 2)
    with _delivering(client, keys, *_host(receiver)):
        eventually(lambda: _nothing_is_left(client, keys))
    assert sorted(receiver.ids) == sorted(ids)
    assert not failures


def test_pauses_grow_to_an_hour_with_a_quarter_more_or_less() -> None:
    schedule = DeliverySchedule()
    for attempts, pause_s in (
        (1, 1),
        (2, 5),
        (3, 25),
        (4, 125),
        (5, 625),
        (6, 3125),
        (7, 3600),
        (1000, 3600),
    ):
        pauses = [schedule.pause_s(attempts) for _ in range(100)]
        assert 0.75 * pause_s <= min(pauses) < pause_s < max(pauses) <= 1.25 * pause_s


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("30", 30, 30),
        ("0", 0.75, 1.25),
        ("999999999999", 3600, 3600),
        ("-5", 0.75, 1.25),
        ("soon", 0.75, 1.25),
        ("\u0663", 0.75, 1.25),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.75, 1.25),
        ("Fri, 31 Dec 2199 23:59:59 GMT", 3600, 3600),
    ],
)
def test_retry_after_is_heeded_within_bounds(said: str, least: float, most: float) -> None:
    assert least <= DeliverySchedule().pause_s(1, said) <= most


def test_a_lease_is_longer_than_an_attempt() -> None:
    schedule = DeliverySchedule()
    assert schedule.lease_s > schedule.attempt_s + 5
