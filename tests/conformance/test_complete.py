"""complete.lua through Consumer.complete, on a real Redis: all or nothing, and what it refuses."""

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY

from broker import codec
from broker.consumer import DEAD_LIMIT, DEAD_TTL_S, CompletedJob
from broker.errors import LeaseLost
from broker.keys import Keys
from broker.messages import Failure, Result
from tests.support.channels import publish, subscription
from tests.support.fakes import (
    MODEL,
    READY,
    RESULT_TTL_S,
    consumer,
    enqueue,
    is_pending,
    job,
    lapse,
    lease,
    producer,
)


def _result(job_id: str) -> Result:
    return Result(id=job_id, model=MODEL, model_version="v1", error=Failure("inference_failed", "x"))


def _outcomes(ids: list[str]) -> list[CompletedJob]:
    return [CompletedJob(job_id, _result(job_id), "web-1") for job_id in ids]


def _claimed(client: redis.Redis, keys: Keys, count: int) -> tuple[str, list[str]]:
    enqueue(client, keys, *(job() for _ in range(count)))
    worker = lease(client, keys).register(READY)
    return worker, [each.id for each in consumer(client, keys).claim(worker, count)]


def test_writes_publishes_and_trims(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 3)
    with subscription(client, keys, MODEL, "web-1") as channel:
        assert consumer(client, keys).complete(worker, _outcomes(ids[:2])) is True
        published = [channel.get_message(timeout=5)["data"] for _ in range(2)]
    assert [codec.decode(each, Result).id for each in published] == ids[:2]
    polled = producer(client, keys).poll(MODEL, ids[0])
    assert isinstance(polled, Result)
    assert polled == _result(ids[0])
    assert 0 < client.ttl(keys.of(MODEL).result(ids[0])) <= RESULT_TTL_S
    left = client.lrange(keys.of(MODEL).claims(worker), 0, -1)
    assert len(left) == 1
    assert ids[2] in str(left[0])


def test_a_completion_is_one_operation_on_redis(client: redis.Redis, keys: Keys) -> None:
    def counted() -> float:
        labels = {"operation": "take results"}
        return REGISTRY.get_sample_value("batchwire_redis_operation_duration_seconds_count", labels) or 0.0

    worker, ids = _claimed(client, keys, 2)
    before = counted()
    assert consumer(client, keys).complete(worker, _outcomes(ids)) is True
    assert counted() == before + 1


def test_a_cancelled_job_gets_no_key_and_no_message(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 1)
    producer(client, keys).cancel(MODEL, ids[0])
    with subscription(client, keys, MODEL, "web-1") as channel:
        assert consumer(client, keys).complete(worker, _outcomes(ids))
        publish(client, keys, MODEL, "web-1", b"next")
        assert channel.get_message(timeout=5)["data"] == b"next"
    assert not client.exists(keys.of(MODEL).result(ids[0]))


def test_refuses_a_lapsed_lease_and_writes_nothing(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 2)
    lapse(client, keys, worker)
    with pytest.raises(LeaseLost):
        consumer(client, keys).complete(worker, _outcomes(ids))
    assert is_pending(client, keys, ids[0])
    assert client.llen(keys.of(MODEL).claims(worker)) == 2


def test_refuses_a_worker_that_was_reaped(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 1)
    lapse(client, keys, worker)
    lease(client, keys).recover_lost()
    with pytest.raises(LeaseLost):
        consumer(client, keys).complete(worker, _outcomes(ids))
    assert is_pending(client, keys, ids[0])


@pytest.mark.parametrize("of_batch", [slice(1, 3), slice(0, 4)], ids=["not the first", "more than claimed"])
def test_refuses_what_the_claims_do_not_begin_with(client: redis.Redis, keys: Keys, of_batch: slice) -> None:
    worker, ids = _claimed(client, keys, 3)
    others = [*ids, job().id]
    assert consumer(client, keys).complete(worker, _outcomes(others[of_batch])) is False
    assert client.llen(keys.of(MODEL).claims(worker)) == 3
    assert all(is_pending(client, keys, each) for each in ids)


def test_a_repeated_completion_is_refused_and_trims_nothing_of_the_next_batch(
    client: redis.Redis, keys: Keys
) -> None:
    worker, ids = _claimed(client, keys, 4)
    finisher = consumer(client, keys)
    assert finisher.complete(worker, _outcomes(ids[:2])) is True
    assert finisher.complete(worker, _outcomes(ids[:2])) is False
    assert client.llen(keys.of(MODEL).claims(worker)) == 2


def test_dropped_jobs_leave_with_their_batch(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 3)
    outcomes = _outcomes(ids)
    outcomes[0] = CompletedJob(ids[0])
    outcomes[2] = CompletedJob(ids[2])
    assert consumer(client, keys).complete(worker, outcomes)
    assert is_pending(client, keys, ids[0])
    assert isinstance(producer(client, keys).poll(MODEL, ids[1]), Result)
    assert client.llen(keys.of(MODEL).claims(worker)) == 0


def test_clears_attempts(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job())
    client.hset(keys.of(MODEL).attempts, mapping={only.id: "2", "another": "1"})
    worker = lease(client, keys).register(READY)
    consumer(client, keys).claim(worker, 1)
    consumer(client, keys).complete(worker, _outcomes([only.id]))
    assert client.hgetall(keys.of(MODEL).attempts) == {b"another": b"1"}


def test_a_poison_job_goes_to_dead_whole_with_its_reason(client: redis.Redis, keys: Keys) -> None:
    worker, ids = _claimed(client, keys, 2)
    outcomes = [
        CompletedJob(ids[0], _result(ids[0])),
        CompletedJob(ids[1], _result(ids[1]), None, 'said "no"'),
    ]
    consumer(client, keys).complete(worker, outcomes)
    (entry,) = client.lrange(keys.of(MODEL).dead, 0, -1)
    dead = msgspec.json.decode(entry)
    assert dead["reason"] == 'said "no"'
    assert dead["job"]["id"] == ids[1]
    assert DEAD_TTL_S - 60 < client.ttl(keys.of(MODEL).dead) <= DEAD_TTL_S


def test_dead_keeps_only_the_newest(client: redis.Redis, keys: Keys) -> None:
    count = DEAD_LIMIT + 3
    worker, ids = _claimed(client, keys, count)
    consumer(client, keys).complete(worker, [CompletedJob(each, _result(each), None, "bad") for each in ids])
    entries = client.lrange(keys.of(MODEL).dead, 0, -1)
    assert [msgspec.json.decode(each)["job"]["id"] for each in entries] == ids[3:]
