"""The webhooks of jobs on a real Redis: added with the job, due at its end, taken once, put off, ended."""

import time
from dataclasses import replace

import pytest
import redis
from msgspec import structs

from broker import codec, webhooks
from broker.consumer import CompletedJob
from broker.errors import BrokerUnavailable, IdempotencyKeyReused, Overloaded
from broker.keys import Keys
from broker.messages import Failure, Job, Result, Webhook
from broker.producer import RequestName
from broker.webhooks import DueWebhook, TakenWebhook, WebhookStore
from tests.support.channels import subscription
from tests.support.fakes import KEY_TTL_S, MODEL, READY, consumer, job, lease, producer
from tests.support.waiting import eventually

URL = "https://hooks.example.org/done?token=secret"


def _polled(*, deadline_in_s: float = 60.0) -> Job:
    return structs.replace(job(deadline_in_s=deadline_in_s), polled=True)


def _webhook(of: Job) -> Webhook:
    return Webhook(URL, of.accepted_at, of.deadline, "request-1")


def _accepted(client: redis.Redis, keys: Keys, *, deadline_in_s: float = 60.0) -> Job:
    """A job with a webhook, in the queue; its model is listed."""
    accepted = _polled(deadline_in_s=deadline_in_s)
    producer(client, keys).enqueue(MODEL, accepted, webhook=_webhook(accepted))
    client.sadd(keys.models, MODEL)
    return accepted


def _result(job_id: str, message: str = "x") -> Result:
    return Result(id=job_id, model=MODEL, model_version="v1", error=Failure("inference_failed", message))


def _complete(client: redis.Redis, keys: Keys, *ids: str) -> list[str]:
    """Claim that many jobs and give each a result. Returns their ids."""
    worker = lease(client, keys).register(READY)
    taker = consumer(client, keys)
    claimed = [each.id for each in taker.claim(worker, len(ids))]
    assert taker.complete(worker, [CompletedJob(each, _result(each)) for each in claimed])
    return claimed


def _due(store: WebhookStore) -> list[DueWebhook]:
    store.due(10)  # it learns of the models
    return store.due(10)


def _taken(store: WebhookStore, lease_s: float = 5.0) -> TakenWebhook:
    (due,) = _due(store)
    taken = store.take(due, lease_s=lease_s)
    assert taken is not None
    return taken


def test_a_webhook_is_added_with_the_job_and_due_at_its_end(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys)
    store = producer(client, keys).webhooks
    assert _due(store) == []
    own = keys.of(MODEL)
    assert all(0 < client.ttl(key) <= KEY_TTL_S for key in (own.webhooks, own.callbacks))
    began = time.time()
    _complete(client, keys, accepted.id)
    assert 0 < client.ttl(own.undelivered) <= KEY_TTL_S
    (due,) = _due(store)
    assert due == DueWebhook(MODEL, accepted.id, _webhook(accepted))
    taken = store.take(due, lease_s=5)
    assert taken is not None
    assert taken.webhook == _webhook(accepted)
    assert taken.result == codec.encode(_result(accepted.id))
    assert began - 0.1 <= taken.ended_at <= time.time() + 0.1


def test_an_end_is_kept_for_jobs_with_a_webhook_alone(client: redis.Redis, keys: Keys) -> None:
    plain = _polled()
    producer(client, keys).enqueue(MODEL, plain)
    _complete(client, keys, plain.id)
    assert not client.exists(keys.of(MODEL).webhooks, keys.of(MODEL).callbacks, keys.of(MODEL).undelivered)


def test_only_one_process_takes_it_and_after_the_lease_another(client: redis.Redis, keys: Keys) -> None:
    _complete(client, keys, _accepted(client, keys).id)
    one, other = producer(client, keys).webhooks, producer(client, keys).webhooks
    (due,) = _due(one)
    assert one.take(due, lease_s=0.3) is not None
    assert other.take(due, lease_s=0.3) is None
    assert _due(other) == []
    # The first died with it.
    eventually(lambda: bool(_due(other)), within_s=5)
    assert other.take(due, lease_s=5) is not None


def test_one_that_failed_is_due_later_and_remembers_its_attempts(client: redis.Redis, keys: Keys) -> None:
    _complete(client, keys, _accepted(client, keys).id)
    store = producer(client, keys).webhooks
    taken = _taken(store)
    store.later(taken, in_s=0.3, attempts=3)
    assert _due(store) == []
    eventually(lambda: bool(_due(store)), within_s=5)
    assert _taken(store) == replace(taken, webhook=replace(taken.webhook, attempts=3))


def test_nothing_is_left_of_one_that_has_ended(client: redis.Redis, keys: Keys) -> None:
    store = producer(client, keys).webhooks
    ids = [_accepted(client, keys).id for _ in range(2)]
    _complete(client, keys, *ids)
    size = int(client.hget(keys.of(MODEL).undelivered, "bytes") or 0)
    assert store.end(MODEL, ids[0])
    assert int(client.hget(keys.of(MODEL).undelivered, "bytes") or 0) == size / 2
    assert store.end(MODEL, ids[1])
    assert not store.end(MODEL, ids[1])
    assert not client.exists(keys.of(MODEL).webhooks, keys.of(MODEL).callbacks, keys.of(MODEL).undelivered)


def test_a_late_holder_brings_nothing_back(client: redis.Redis, keys: Keys) -> None:
    _complete(client, keys, _accepted(client, keys).id)
    store = producer(client, keys).webhooks
    taken = _taken(store)
    store.end(MODEL, taken.job_id)
    store.later(taken, in_s=0, attempts=1)
    store.put_off([DueWebhook(MODEL, taken.job_id, taken.webhook)], by_s=lambda: 1.0)
    assert not client.exists(keys.of(MODEL).webhooks, keys.of(MODEL).callbacks, keys.of(MODEL).undelivered)


def test_one_that_is_put_off_waits_but_one_that_is_taken_stays_taken(client: redis.Redis, keys: Keys) -> None:
    ids = [_accepted(client, keys).id for _ in range(2)]
    _complete(client, keys, *ids)
    store = producer(client, keys).webhooks
    due = _due(store)
    assert store.take(due[0], lease_s=100) is not None
    score = client.zscore(keys.of(MODEL).webhooks, due[0].job_id)
    store.put_off(due, by_s=lambda: 10.0)
    assert _due(store) == []
    assert client.zscore(keys.of(MODEL).webhooks, due[0].job_id) == score


def test_a_deadline_that_passes_is_announced_and_no_result_comes_after_it(
    client: redis.Redis, keys: Keys
) -> None:
    accepted = _accepted(client, keys, deadline_in_s=-webhooks.GRACE_S)
    worker = lease(client, keys).register(READY)
    claimed = consumer(client, keys).claim(worker, 1)
    store = producer(client, keys).webhooks
    taken = _taken(store)
    assert taken.result is None
    assert store.left_s(taken) <= 0
    store.expire(MODEL, _result(accepted.id, "late"))
    # Its batch ends after all.
    assert consumer(client, keys).complete(worker, [CompletedJob(claimed[0].id, _result(accepted.id))])
    assert producer(client, keys).poll(MODEL, accepted.id) is None
    assert _taken(store).result == codec.encode(_result(accepted.id, "late"))


def test_at_its_deadline_a_result_that_is_there_counts(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys, deadline_in_s=-webhooks.GRACE_S)
    result = codec.encode(_result(accepted.id, "in time"))
    client.set(keys.of(MODEL).result(accepted.id), result)  # of a release that knew no webhooks
    store = producer(client, keys).webhooks
    store.expire(MODEL, _result(accepted.id, "late"))
    assert _taken(store).result == result
    assert client.get(keys.of(MODEL).result(accepted.id)) == result


def test_the_first_end_counts(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys)
    _complete(client, keys, accepted.id)
    client.delete(keys.of(MODEL).result(accepted.id))  # a poller had it, at its deadline
    store = producer(client, keys).webhooks
    size = client.hget(keys.of(MODEL).undelivered, "bytes")
    store.expire(MODEL, _result(accepted.id, "late"))
    assert client.hget(keys.of(MODEL).undelivered, "bytes") == size
    assert _taken(store).result == codec.encode(_result(accepted.id))


def test_a_cancelled_job_has_no_webhook(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys)
    assert producer(client, keys).cancel(MODEL, accepted.id, has_webhook=True)
    assert not client.exists(keys.of(MODEL).webhooks, keys.of(MODEL).callbacks)
    _complete(client, keys, accepted.id)
    assert _due(producer(client, keys).webhooks) == []


def test_a_pipeline_s_webhook_is_due_when_its_result_is_written(client: redis.Redis, keys: Keys) -> None:
    client.sadd(keys.models, MODEL)
    web = producer(client, keys)
    web.begin(MODEL, _ID, time_s=60, callback_url=URL, request_id="r")
    with subscription(client, keys, MODEL, _ID) as channel:
        web.finish(_result(_ID))
        assert codec.decode(channel.get_message(timeout=5)["data"], Result) == _result(_ID)
    assert web.poll(MODEL, _ID) == _result(_ID)
    assert 59_000 < client.pttl(keys.of(MODEL).result(_ID)) <= 60_000
    taken = _taken(web.webhooks)
    assert (taken.webhook.url, taken.webhook.request_id) == (URL, "r")
    assert taken.result == codec.encode(_result(_ID))


_ID = "8bcad012-3f19-4157-b099-30f27f5ee3a7"


def test_a_pipeline_that_was_cancelled_writes_nothing(client: redis.Redis, keys: Keys) -> None:
    web = producer(client, keys)
    web.begin(MODEL, _ID, time_s=60, callback_url=URL)
    web.cancel(MODEL, _ID, has_webhook=True)
    web.finish(_result(_ID))
    assert client.keys("*") == []


def test_the_same_request_again_has_one_webhook(client: redis.Redis, keys: Keys) -> None:
    web, one, other = producer(client, keys), _polled(), _polled()
    name = RequestName("key:0", "digest")
    assert web.enqueue(MODEL, one, name, _webhook(one)) == one.id
    assert web.enqueue(MODEL, other, name, _webhook(other)) == one.id
    assert client.zcard(keys.of(MODEL).webhooks) == 1
    with pytest.raises(IdempotencyKeyReused):
        web.enqueue(MODEL, other, RequestName("key:0", "another"), _webhook(other))


@pytest.mark.parametrize("bound", ["MAX_WEBHOOKS", "MAX_BYTES"])
def test_their_number_and_their_bytes_are_bounded(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    _complete(client, keys, _accepted(client, keys).id)
    store = producer(client, keys).webhooks
    store.admit(MODEL)
    monkeypatch.setattr(webhooks, bound, 1)
    with pytest.raises(Overloaded, match=f"1 webhooks of {MODEL} wait"):
        store.admit(MODEL)


def test_a_key_of_a_wrong_type_is_one_model_s_trouble(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys)
    client.sadd(keys.models, "other")
    client.set(keys.of("other").webhooks, "no set")
    _complete(client, keys, accepted.id)
    assert [due.job_id for due in _due(producer(client, keys).webhooks)] == [accepted.id]


def test_results_are_written_though_the_webhooks_key_is_of_a_wrong_type(
    client: redis.Redis, keys: Keys
) -> None:
    plain = _polled()
    producer(client, keys).enqueue(MODEL, plain)
    client.set(keys.of(MODEL).webhooks, "no set")
    _complete(client, keys, plain.id)
    assert producer(client, keys).poll(MODEL, plain.id) == _result(plain.id)


def test_a_full_redis_delivers_what_was_accepted_and_accepts_no_more(client: redis.Redis, keys: Keys) -> None:
    ids = [_accepted(client, keys).id for _ in range(2)]
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            _accepted(client, keys)
        assert client.zcard(keys.of(MODEL).webhooks) == 2
        assert len(taker.claim(worker, 2)) == 2
        assert taker.complete(worker, [CompletedJob(each, _result(each)) for each in ids])
        store = producer(client, keys).webhooks
        for due in _due(store):
            taken = store.take(due, lease_s=5)
            assert taken is not None
            store.later(taken, in_s=0, attempts=1)
            assert store.end(MODEL, due.job_id)
    finally:
        client.config_set("maxmemory", "0")
    assert client.zcard(keys.of(MODEL).webhooks) == 0


def test_an_unreadable_callback_is_ended(client: redis.Redis, keys: Keys) -> None:
    accepted = _accepted(client, keys)
    client.hset(keys.of(MODEL).callbacks, accepted.id, "{")
    _complete(client, keys, accepted.id)
    assert _due(producer(client, keys).webhooks) == []
    assert client.zcard(keys.of(MODEL).webhooks) == 0
