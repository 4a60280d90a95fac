"""What became of polled jobs that are no more, on a real Redis: deleted, expired or lost."""

import time

import pytest
import redis
from msgspec import UNSET, structs

from broker.clock import RedisClock
from broker.connection import connect
from broker.keys import Keys
from broker.lost_jobs import MOST_SEEN, Fate, LostJobs
from broker.messages import Failure, Result, Webhook
from broker.producer import Producer
from tests.support.fakes import LIMITS, MODEL, RESULT_TTL_S, FakeClock, job, producer
from tests.support.redis_server import RedisServer, client_of


def _enqueued(into: Producer, *, owner: str = "", callback: str = "") -> str:
    job_id = into.ids.make(MODEL, owner=owner, is_polled=True)
    accepted = structs.replace(job(), id=job_id, polled=True, lane=f"{owner}@100" if owner else "")
    times = accepted.accepted_at, accepted.deadline
    webhook = Webhook(callback, *times, owner=owner or UNSET) if callback else None
    return into.enqueue(MODEL, accepted, webhook=webhook)


class AgingClock(RedisClock):
    """Redis' clock, as it will be so many seconds later."""

    later_s = 0.0

    def now(self) -> float:
        return super().now() + self.later_s


def test_a_lost_job_is_told_of_once_and_stays_lost(client: redis.Redis, keys: Keys) -> None:
    its, other = producer(client, keys), producer(client, keys)
    job_id = _enqueued(its, owner="ann")
    client.delete(keys.of(MODEL).result(job_id))
    assert its.lost.fate(MODEL, job_id, owner="bob") is Fate.UNKNOWN
    assert its.lost.fate(MODEL, job_id) is Fate.UNKNOWN
    assert its.lost.fate(MODEL, job_id, owner="ann") is Fate.LOST
    assert other.lost.fate(MODEL, job_id, owner="ann") is Fate.LOST_BEFORE
    assert its.lost.fate(MODEL, job_id, owner="ann") is Fate.LOST_BEFORE
    assert 0 < client.ttl(keys.of(MODEL).trace(job_id)) <= RESULT_TTL_S


def test_everything_lost_at_once_is_told_too(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    job_id = _enqueued(its)
    client.flushall()
    assert its.lost.fate(MODEL, job_id) is Fate.LOST


def test_a_job_that_never_was_is_not_lost(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    for invented in (job().id, its.ids.make(MODEL, is_polled=False), "x"):
        assert its.lost.fate(MODEL, invented) is Fate.UNKNOWN
    assert its.lost.fate("other", its.ids.make(MODEL, is_polled=True)) is Fate.UNKNOWN
    assert client.keys(keys.of(MODEL).trace("*")) == []


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("is_full", [False, True])
def test_what_was_deleted_is_not_lost(
    own_redis: RedisServer, keys: Keys, is_done: bool, is_full: bool
) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        its = producer(client, keys)
        job_id = _enqueued(its, owner="ann", callback="https://example.org/")
        if is_done:
            its.finish(Result(job_id, MODEL, "v1", owner="ann"))
        if is_full:
            client.config_set("maxmemory", "1")
        assert its.delete(MODEL, job_id, owner="ann")
        assert not its.delete(MODEL, job_id, owner="ann")
        assert its.lost.fate(MODEL, job_id, owner="ann") is Fate.UNKNOWN


def test_what_ended_at_its_deadline_is_not_lost(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    polled, announced = _enqueued(its), _enqueued(its, callback="https://example.org/")
    assert its.take_or_cancel(MODEL, polled, is_polled=True) is None
    failure = Result(announced, MODEL, "", error=Failure("deadline_passed", "late"))
    its.webhooks.expire(MODEL, failure)
    for job_id in (polled, announced):
        assert not its.is_known(MODEL, job_id)
        assert its.lost.fate(MODEL, job_id) is Fate.UNKNOWN


def test_a_result_that_is_taken_at_the_deadline_is_not_lost(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    job_id = _enqueued(its)
    its.finish(Result(job_id, MODEL, "v1"))
    assert its.take_or_cancel(MODEL, job_id, is_polled=True) == Result(job_id, MODEL, "v1")
    assert its.lost.fate(MODEL, job_id) is Fate.UNKNOWN


def test_only_what_can_not_have_expired_is_lost(client: redis.Redis, keys: Keys) -> None:
    clock, monotonic = AgingClock(), FakeClock()
    its = producer(client, keys)
    lost = LostJobs(
        client_of(client, "web"), keys, clock, its.ids, result_ttl_s=RESULT_TTL_S, monotonic=monotonic
    )
    old, seen, young = (_enqueued(its) for _ in range(3))
    for each in (old, seen, young):
        client.delete(keys.of(MODEL).result(each))
    clock.later_s = RESULT_TTL_S - 2
    assert lost.fate(MODEL, young) is Fate.LOST
    clock.later_s = RESULT_TTL_S + 1
    assert lost.fate(MODEL, old) is Fate.EXPIRED
    # One that was seen pending since has no result that is older.
    assert not lost.is_missing(MODEL, seen, asked_at=monotonic.now, lane=None)
    monotonic.now += RESULT_TTL_S
    assert lost.fate(MODEL, seen) is Fate.EXPIRED
    monotonic.now -= 1
    assert lost.fate(MODEL, seen) is Fate.LOST


def test_a_clock_that_steps_ahead_makes_no_loss_an_old_one(client: redis.Redis, keys: Keys) -> None:
    its, clock = producer(client, keys), RedisClock()
    lost = LostJobs(client_of(client, "web"), keys, clock, its.ids, result_ttl_s=RESULT_TTL_S)
    job_id = _enqueued(its)
    client.delete(keys.of(MODEL).result(job_id))
    for ahead_s in (0, 3600):
        now = time.monotonic()
        clock.sync(time.time() + ahead_s, sent=now, received=now)
    assert lost.fate(MODEL, job_id) is Fate.LOST


def test_of_two_pollers_that_hear_at_once_one_is_the_first(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = producer(client, keys)
    job_id = _enqueued(its)
    client.delete(keys.of(MODEL).result(job_id))
    assert its.ids.made_at(job_id, MODEL) is not None
    monkeypatch.setattr(its.lost._redis, "get", lambda _: None)  # each looks before the other's note
    assert [its.lost.fate(MODEL, job_id) for _ in range(2)] == [Fate.LOST, Fate.LOST_BEFORE]


def test_pollers_are_remembered_up_to_a_bound(client: redis.Redis, keys: Keys) -> None:
    lost = producer(client, keys).lost
    for number in range(MOST_SEEN + 5):
        lost.is_missing(MODEL, str(number), asked_at=1.0, lane=None)
        lost.is_missing(MODEL, "0", asked_at=2.0, lane=None)  # which is asked about again and again
    assert len(lost._seen) == MOST_SEEN
    assert lost._seen[MODEL, "0"].last_at == 2.0


def test_a_full_redis_still_tells(own_redis: RedisServer, keys: Keys) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        its = producer(client, keys)
        job_id = _enqueued(its)
        client.delete(keys.of(MODEL).result(job_id))
        client.config_set("maxmemory", "1")
        assert its.lost.fate(MODEL, job_id) is Fate.LOST


def test_a_job_that_was_enqueued_again_by_an_operator_has_such_an_id(client: redis.Redis, keys: Keys) -> None:
    maker = Producer(client_of(client, "operator"), keys, LIMITS)
    made = maker.ids.make(MODEL, owner="ann", is_polled=True)
    assert producer(client, keys).ids.made_at(made, MODEL, owner="ann") is not None
