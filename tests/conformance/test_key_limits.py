"""An API key's limits on a real Redis: tokens and places, all or none, whatever its clock does."""

import uuid

import pytest
import redis

from broker.api_keys import ApiKey
from broker.cluster import is_cluster
from broker.connection import connect
from broker.key_limits import KeyLimitStore, LimitVerdict, polled_member, waiting_member
from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.redis_server import RedisServer, client_of
from tests.support.waiting import eventually

HOUR_S = 3600.0
SLOW = 0.001
"""Tokens a second: none comes back during a test."""


@pytest.fixture
def store(client: redis.Redis, keys: Keys) -> KeyLimitStore:
    return KeyLimitStore(client_of(client, "web"), keys, key_ttl_s=86400)


def _key(**fields: float) -> ApiKey:
    return ApiKey(name="ann", secrets=(), created_at=0, **fields)  # type: ignore[arg-type]


def _members(count: int, *, polled: bool = False) -> list[str]:
    ids = [str(uuid.uuid4()) for _ in range(count)]
    return [polled_member(MODEL, each) if polled else waiting_member(each) for each in ids]


def _take(
    store: KeyLimitStore, key: ApiKey, members: int | list[str], *, time_s: float = 10.0, polled: bool = False
) -> tuple[LimitVerdict, float, int]:
    wanted = _members(members, polled=polled) if isinstance(members, int) else members
    taken = store.take(key, wanted, time_s=time_s, most_s=300, polled=polled)
    return taken.verdict, round(taken.tokens, 1), taken.jobs


def test_tokens_are_taken_all_or_none(store: KeyLimitStore) -> None:
    key = _key(rate=SLOW, burst=5)
    assert _take(store, key, 3) == (LimitVerdict.TAKEN, 2.0, 0)
    assert _take(store, key, 3) == (LimitVerdict.RATE, 2.0, 0)
    assert _take(store, key, 2) == (LimitVerdict.TAKEN, 0.0, 0)
    assert _take(store, key, 1) == (LimitVerdict.RATE, 0.0, 0)
    store.give_back("ann", [], tokens=4)
    assert _take(store, key, 4) == (LimitVerdict.TAKEN, 0.0, 0)
    store.give_back("ann", [], tokens=100)  # no more than the bucket holds
    assert _take(store, key, 1) == (LimitVerdict.TAKEN, 4.0, 0)


def test_tokens_come_back_at_their_rate(store: KeyLimitStore) -> None:
    key = _key(rate=50.0, burst=2)
    assert _take(store, key, 2)[0] is LimitVerdict.TAKEN
    eventually(lambda: _take(store, key, 2)[0] is LimitVerdict.TAKEN)


def test_places_are_free_again_when_jobs_end_or_their_time_is_over(store: KeyLimitStore) -> None:
    key, members = _key(jobs=3), _members(2)
    assert _take(store, key, members) == (LimitVerdict.TAKEN, 0.0, 2)
    assert _take(store, key, 2) == (LimitVerdict.JOBS, 0.0, 2)
    assert _take(store, key, 1, time_s=-1.0) == (LimitVerdict.TAKEN, 0.0, 3)  # its time is over at once
    assert _take(store, key, 1) == (LimitVerdict.TAKEN, 0.0, 3)
    assert _take(store, key, 1) == (LimitVerdict.JOBS, 0.0, 3)
    assert store.give_back("ann", members) == 2
    assert store.give_back("ann", members) == 0
    assert _take(store, key, 2) == (LimitVerdict.TAKEN, 0.0, 3)


def test_a_refusal_of_one_limit_takes_nothing_of_the_other(store: KeyLimitStore) -> None:
    key = _key(rate=SLOW, burst=4, jobs=2)
    assert _take(store, key, 2) == (LimitVerdict.TAKEN, 2.0, 2)
    assert _take(store, key, 1) == (LimitVerdict.JOBS, 2.0, 2)
    assert _take(store, _key(rate=SLOW, burst=4, jobs=9), 3) == (LimitVerdict.RATE, 2.0, 2)
    assert _take(store, _key(rate=SLOW, burst=4, jobs=9), 2) == (LimitVerdict.TAKEN, 0.0, 4)


def test_jobs_that_have_ended_elsewhere_are_found(
    store: KeyLimitStore, client: redis.Redis, keys: Keys
) -> None:
    pending, done, unborn, gone = (str(uuid.uuid4()) for _ in range(4))
    of_model = keys.of(MODEL)
    client.set(of_model.result(pending), "pending p 1 2", ex=60)
    client.set(of_model.result(done), "{}", ex=60)
    key = _key(jobs=9)
    for job_id, time_s in ((pending, 200.0), (done, 300.0), (unborn, 300.0), (gone, 200.0)):
        _take(store, key, [polled_member(MODEL, job_id)], time_s=time_s, polled=True)
    _take(store, key, 1)  # one that is waited for
    ended = [polled_member(MODEL, gone), polled_member(MODEL, done)]
    assert store.ended("ann", first=0, look_at=64, within_s=290) == ended
    # By deadline: the one that is waited for, then two of each kind of time.
    assert store.ended("ann", first=0, look_at=3, within_s=290) == ended[:1]
    assert store.ended("ann", first=3, look_at=3, within_s=290) == ended[1:]


def test_polled_jobs_are_listed_the_newest_first_while_there_is_something_of_them(
    store: KeyLimitStore, client: redis.Redis, keys: Keys
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(7)]
    for each in (ids[:4], ids[4:]):
        _take(store, _key(), [polled_member(MODEL, job_id) for job_id in each], polled=True)
    for number, job_id in enumerate(ids):
        if number not in (2, 5):
            value = "{}" if number % 2 else "pending p 1 2"
            client.set(keys.of(MODEL).result(job_id), value, ex=60)
    # Two have no result key, but may not be enqueued yet: they stay.
    assert len(store.listed("ann", before=None, most=9, absent_s=60)) == 5
    assert client.zcard(keys.of_api_key("ann").polled) == 7
    first = store.listed("ann", before=None, most=3, absent_s=-60)
    assert [(ids.index(job.job_id), job.deadline) for job in first] == [(6, 2.0), (4, 2.0), (3, None)]
    second = store.listed("ann", before=first[-1].accepted_at, most=3, absent_s=-60)
    assert [(ids.index(job.job_id), job.deadline) for job in second] == [(1, None), (0, 2.0)]
    assert client.zcard(keys.of_api_key("ann").polled) == 5
    assert store.listed("ben", before=None, most=3, absent_s=-60) == []


def test_every_key_of_a_slot_has_an_end(store: KeyLimitStore, client: redis.Redis, keys: Keys) -> None:
    _take(store, _key(rate=1.0, burst=5, jobs=5), 2, polled=True)
    own = keys.of_api_key("ann")
    assert all(86000 < int(client.ttl(each)) <= 86400 for each in (own.bucket, own.jobs, own.polled))


@pytest.mark.slow
def test_steps_of_the_clock_cost_a_burst_at_most(stepping_redis: RedisServer, keys: Keys) -> None:
    with connect(stepping_redis.url, timeout_s=5) as client:
        if is_cluster(client):
            pytest.skip("there a model's slot moves to another clock, and a key's stays where it is")
        store, key = KeyLimitStore(client, keys, key_ttl_s=86400), _key(rate=0.01, burst=3, jobs=4)
        assert _take(store, key, 3) == (LimitVerdict.TAKEN, 0.0, 3)
        stepping_redis.step_clock(HOUR_S)  # fills the bucket, and all deadlines have passed
        assert _take(store, key, 3) == (LimitVerdict.TAKEN, 0.0, 3)
        stepping_redis.step_clock(-HOUR_S)  # it waits for no time that is an hour away
        assert _take(store, key, 1)[0] is LimitVerdict.RATE
        stamp = float(client.hget(keys.of_api_key("ann").bucket, "at") or 0)
        assert stamp < client.time()[0] + 2
        # Places whose deadlines no job can have: they are free.
        assert _take(store, _key(jobs=4), 4) == (LimitVerdict.TAKEN, 0.0, 4)
