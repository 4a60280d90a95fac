"""Jobs whose keys are there and which are in no list, on a real Redis: found, and no other is."""

import time
from dataclasses import replace

import pytest
import redis
from msgspec import structs

from broker.clock import RedisClock
from broker.job_ids import JobIds
from broker.keys import Keys
from broker.lost_jobs import LOOK_S, Fate, JobSearch, LostJobs, QueuedJob
from broker.messages import Job, Result
from broker.shards import ShardMap
from tests.support.fakes import (
    CARD,
    MODEL,
    READY,
    RESULT_TTL_S,
    FakeClock,
    consumer,
    enqueue,
    is_pending,
    job,
    lease,
    producer,
)
from tests.support.redis_server import calls, client_of

KINDS = pytest.mark.parametrize(
    ("polled", "lane"), [(False, ""), (True, ""), (True, "ann@100"), (False, "b@1")]
)
LATER_S = 10.0
"""Between jobs that come one after the other: more than clocks differ by."""


def _job(*, polled: bool = False, lane: str = "", later_s: float = 0.0) -> Job:
    return structs.replace(job(now=time.time() + later_s), polled=polled, lane=lane)


def _missing(client: redis.Redis, keys: Keys, *jobs: Job) -> set[str]:
    """Of jobs in one part of the queue."""
    part = keys.of(MODEL, jobs[0].id)
    queued = [QueuedJob(each.id, each.lane, each.polled, each.accepted_at) for each in jobs]
    return JobSearch(client_of(client, "web")).missing(part, queued)


@KINDS
def test_a_job_is_found_where_it_is(client: redis.Redis, keys: Keys, polled: bool, lane: str) -> None:
    first, second = enqueue(
        client, keys, *(_job(polled=polled, lane=lane, later_s=each) for each in (0, LATER_S))
    )
    assert _missing(client, keys, first, second) == set()
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    for _ in range(2):
        assert [each.id for each in taker.claim(worker, 1)] == [first.id]
        # It is claimed, and what stands in the list came after it.
        assert _missing(client, keys, first, second) == set()
        own = lease(client, keys)
        own.worker = worker
        assert own.give_back() == 1
        assert _missing(client, keys, first, second) == set()


@KINDS
def test_a_job_without_its_list_is_missing(client: redis.Redis, keys: Keys, polled: bool, lane: str) -> None:
    first, second = enqueue(client, keys, _job(polled=polled, lane=lane), _job(polled=not polled, lane=lane))
    its_list = keys.of(MODEL).lane(lane, polled=polled)
    client.delete(its_list)
    assert _missing(client, keys, first, second) == {first.id}
    # Younger ones are there, and it should stand before them; one that is older than it says nothing.
    (younger,) = enqueue(client, keys, _job(polled=polled, lane=lane, later_s=LATER_S))
    assert _missing(client, keys, first, younger) == {first.id}
    client.delete(its_list)
    enqueue(client, keys, _job(polled=polled, lane=lane, later_s=-LATER_S))
    assert _missing(client, keys, first) == set()


@KINDS
def test_a_job_that_was_given_back_and_is_gone_is_missing(
    client: redis.Redis, keys: Keys, polled: bool, lane: str
) -> None:
    (only,) = enqueue(client, keys, _job(polled=polled, lane=lane))
    own = lease(client, keys)
    worker = own.register(READY)
    consumer(client, keys).claim(worker, 1)
    own.give_back()
    client.delete(keys.of(MODEL).lane(lane, polled=polled))
    assert _missing(client, keys, only) == {only.id}


def test_a_job_is_looked_for_in_its_own_shard(client: redis.Redis, keys: Keys) -> None:
    shards = ShardMap()
    shards.note([replace(CARD, shards=4)])
    its = producer(client, keys)
    sharded = JobIds(client_of(client, "web"), keys, RedisClock(), shards=shards)
    job_id = sharded.make(MODEL, is_polled=True)
    (only,) = enqueue(client, keys, structs.replace(_job(polled=True), id=job_id))
    part = keys.of(MODEL, job_id)
    assert part != keys.of(MODEL)
    assert _missing(client, keys, only) == set()
    client.delete(part.polled)
    assert _missing(client, keys, only) == {job_id}
    began = time.monotonic()
    looks = [its.lost.is_missing(MODEL, job_id, asked_at=began + each, lane="") for each in (0, LOOK_S)]
    assert looks == [False, True]
    its.cancel(MODEL, job_id)
    assert its.lost.fate(MODEL, job_id) is Fate.LOST


def test_what_has_ended_is_not_missing(client: redis.Redis, keys: Keys) -> None:
    done, cancelled = enqueue(client, keys, _job(polled=True), _job(polled=True))
    producer(client, keys).finish(Result(done.id, MODEL, "v1"))
    producer(client, keys).cancel(MODEL, cancelled.id)
    client.delete(keys.of(MODEL).polled)
    assert _missing(client, keys, done, cancelled) == set()


def test_a_pipeline_s_job_stands_in_no_list(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    its.begin(MODEL, (only := _job(polled=True)).id, time_s=5, owner="ann")
    assert _missing(client, keys, only) == set()
    stored = its.look_up(MODEL, only.id, owner="ann")
    assert stored is not None
    assert not its.lost.is_missing(MODEL, only.id, asked_at=time.monotonic() + LOOK_S, lane=None)


def test_a_key_that_has_gone_does_not_come_back_with_a_job_that_is_given_back(
    client: redis.Redis, keys: Keys
) -> None:
    (only,) = enqueue(client, keys, _job())
    own = lease(client, keys)
    consumer(client, keys).claim(own.register(READY), 1)
    producer(client, keys).cancel(MODEL, only.id)
    own.give_back()
    assert not client.exists(keys.of(MODEL).result(only.id))


def test_a_poller_s_job_is_looked_for_less_and_less_often(client: redis.Redis, keys: Keys) -> None:
    its, clock = producer(client, keys), FakeClock()
    job_id = its.ids.make(MODEL, is_polled=True)
    enqueue(client, keys, structs.replace(_job(polled=True), id=job_id))

    def looks() -> int:
        return calls(client, "lindex")

    looked, began = [], clock.now
    for _ in range(100):
        before = looks()
        assert not its.lost.is_missing(MODEL, job_id, asked_at=clock.now, lane="")
        if looks() > before:
            looked.append(clock.now - began)
        clock.now += LOOK_S / 4
    assert looked == [LOOK_S * 2**each for each in range(5)]
    client.delete(keys.of(MODEL).polled)
    assert not its.lost.is_missing(MODEL, job_id, asked_at=clock.now, lane="")
    clock.now += 100
    assert its.lost.is_missing(MODEL, job_id, asked_at=clock.now, lane="")
    assert is_pending(client, keys, job_id)
    its.cancel(MODEL, job_id)
    assert its.lost.fate(MODEL, job_id) is Fate.LOST


def test_a_clock_that_goes_back_makes_no_waiting_job_a_missing_one(client: redis.Redis, keys: Keys) -> None:
    its, clock = producer(client, keys), RedisClock()
    ahead_s = 3600.0
    for each in (ahead_s, 0.0):
        now = time.monotonic()
        clock.sync(time.time() + each, sent=now, received=now)
    _, second = enqueue(
        client, keys, *(_job(polled=True, later_s=each) for each in (ahead_s - LATER_S, ahead_s))
    )
    lost = LostJobs(client_of(client, "web"), keys, clock, its.ids, result_ttl_s=RESULT_TTL_S)
    for asked_at in (0.0, LOOK_S):
        assert not lost.is_missing(MODEL, second.id, asked_at=asked_at, lane="")
