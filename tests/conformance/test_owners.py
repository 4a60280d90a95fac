"""Whose job it is, on a real Redis: nobody else polls it or ends it, pending or done."""

from typing import cast

import pytest
import redis
from msgspec import UNSET, structs

from broker import codec
from broker.consumer import CompletedJob
from broker.keys import Keys
from broker.messages import Result, Webhook
from broker.producer import StoredJob
from broker.webhooks import TakenWebhook
from tests.support.fakes import MODEL, READY, consumer, job, lease, producer

LANE = "ann@100"


def _enqueued(client: redis.Redis, keys: Keys, *, lane: str = LANE, callback: str = "") -> str:
    accepted = structs.replace(job(), polled=True, lane=lane)
    webhook = None
    if callback:
        owner = accepted.owner or UNSET
        webhook = Webhook(callback, accepted.accepted_at, accepted.deadline, owner=owner)
    return producer(client, keys).enqueue(MODEL, accepted, webhook=webhook)


def _ended(client: redis.Redis, keys: Keys, job_id: str) -> None:
    """Give the job, the only one, its result."""
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    assert [each.id for each in taker.claim(worker, 2)] == [job_id]
    result = Result(job_id, MODEL, "v1", owner="ann")
    assert taker.complete(worker, [CompletedJob(job_id, result)])


@pytest.mark.parametrize("is_done", [False, True])
def test_it_does_not_exist_for_others(client: redis.Redis, keys: Keys, is_done: bool) -> None:
    its, job_id = producer(client, keys), _enqueued(client, keys, callback="https://example.org/")
    if is_done:
        _ended(client, keys, job_id)
    for other in ("", "bob", "an", "ann@100"):
        assert its.look_up(MODEL, job_id, owner=other) is None
        assert not its.delete(MODEL, job_id, owner=other)
    assert isinstance(its.look_up(MODEL, job_id, owner="ann"), StoredJob)
    assert client.zcard(keys.of(MODEL).webhooks) == 1
    assert its.delete(MODEL, job_id, owner="ann")
    assert its.look_up(MODEL, job_id, owner="ann") is None
    assert client.zcard(keys.of(MODEL).webhooks) == 0


def test_a_webhook_is_its_owner_s_after_the_result_has_expired(client: redis.Redis, keys: Keys) -> None:
    its, job_id = producer(client, keys), _enqueued(client, keys, callback="https://example.org/")
    client.delete(keys.of(MODEL).result(job_id))
    assert not its.delete(MODEL, job_id, owner="bob")
    webhook = codec.decode(cast("bytes", client.hget(keys.of(MODEL).callbacks, job_id)), Webhook)
    its.webhooks.later(
        TakenWebhook(MODEL, job_id, webhook), in_s=1, attempts=1
    )  # after a failed attempt, too
    assert not its.delete(MODEL, job_id, owner="bob")
    assert its.delete(MODEL, job_id, owner="ann")
    assert not its.delete(MODEL, job_id, owner="ann")


def test_a_job_of_nobody_is_no_owner_s(client: redis.Redis, keys: Keys) -> None:
    its, job_id = producer(client, keys), _enqueued(client, keys, lane="")
    assert its.look_up(MODEL, job_id, owner="ann") is None
    assert not its.delete(MODEL, job_id, owner="ann")
    assert its.delete(MODEL, job_id)


def test_a_job_without_a_queue_has_an_owner_too(client: redis.Redis, keys: Keys) -> None:
    its, job_id = producer(client, keys), job().id
    its.begin(MODEL, job_id, time_s=5, owner="ann")
    assert its.look_up(MODEL, job_id) is None
    its.finish(Result(job_id, MODEL, "v1", owner="ann"))
    assert its.look_up(MODEL, job_id, owner="bob") is None
    assert its.look_up(MODEL, job_id, owner="ann") is not None
