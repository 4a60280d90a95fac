"""Jobs of clients that wait and of those that poll, on a real Redis: each kind has its list and its share."""

import dataclasses
from typing import cast

import pytest
import redis
from msgspec import structs

from broker.clock import RedisClock
from broker.errors import BrokerUnavailable, Overloaded
from broker.keys import Keys
from broker.lanes import WAITING_FOR_EACH_POLLED
from broker.messages import Job, Pace, State, WorkerState
from broker.producer import Producer
from broker.registry import Registry
from tests.conformance.test_claim import _register_as, _taker
from tests.support.fakes import (
    KEY_TTL_S,
    LIMITS,
    MODEL,
    READY,
    consumer,
    enqueue,
    job,
    lapse,
    lease,
    producer,
)


def _polled(*, deadline_in_s: float = 60.0) -> Job:
    return structs.replace(job(deadline_in_s=deadline_in_s), polled=True)


def _ids(jobs: list[Job]) -> list[str]:
    return [each.id for each in jobs]


def _both(client: redis.Redis, keys: Keys, count: int) -> tuple[list[str], list[str]]:
    """So many jobs of each kind in the queue, those that are polled first: (waiting, polled)."""
    polled = enqueue(client, keys, *(_polled() for _ in range(count)))
    return _ids(enqueue(client, keys, *(job() for _ in range(count)))), _ids(polled)


def _listed(client: redis.Redis, name: str) -> list[str]:
    entries = cast("list[bytes]", client.lrange(name, 0, -1))
    return [entry[7:43].decode() for entry in entries]


def test_each_kind_has_its_list_with_a_ttl_and_the_queue_is_both(client: redis.Redis, keys: Keys) -> None:
    waiting, polled = _both(client, keys, 2)
    assert _listed(client, keys.of(MODEL).queue) == waiting
    assert _listed(client, keys.of(MODEL).polled) == polled
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())
    lease(client, keys).register(READY)
    assert Registry(client, keys, RedisClock()).models()[MODEL].queue_length == 4
    assert consumer(client, keys).waiting() == 4


def test_of_four_claimed_one_is_polled_in_the_order_of_each_list(client: redis.Redis, keys: Keys) -> None:
    waiting, polled = _both(client, keys, 8)
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    claimed = [each.id for each in taker.claim(worker, 8)]
    assert claimed == [*waiting[:3], polled[0], *waiting[3:6], polled[1]]
    # What is left goes on where the last claim ended.
    assert [each.id for each in taker.claim(worker, 8)] == [*waiting[6:], *polled[2:]]
    assert client.llen(keys.of(MODEL).bell) == 0


def test_claims_of_one_job_take_their_share_too(client: redis.Redis, keys: Keys) -> None:
    """A slow network gets one picture a call; by the batch, a quarter of one would be none."""
    waiting, polled = _both(client, keys, 8)
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    claimed = [each.id for _ in range(8) for each in taker.claim(worker, 1)]
    assert claimed == [*waiting[:3], polled[0], *waiting[3:6], polled[1]]


@pytest.mark.parametrize("kind", ["waiting", "polled"])
def test_either_kind_alone_gets_all(client: redis.Redis, keys: Keys, kind: str) -> None:
    jobs = enqueue(client, keys, *(_polled() if kind == "polled" else job() for _ in range(8)))
    worker = lease(client, keys).register(READY)
    assert [each.id for each in consumer(client, keys).claim(worker, 8)] == _ids(jobs)


def test_while_jobs_of_one_list_are_left_the_bell_stays(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job(), _polled(), _polled())
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    taker.claim(worker, 1)
    assert client.llen(keys.of(MODEL).bell) == 3
    taker.claim(worker, 2)
    assert client.llen(keys.of(MODEL).bell) == 0


@pytest.mark.parametrize("end", ["killed", "give_back", "leave"])
def test_claims_go_back_to_the_heads_of_their_lists_in_order(
    client: redis.Redis, keys: Keys, end: str
) -> None:
    waiting, polled = _both(client, keys, 8)
    own = lease(client, keys)
    worker = own.register(READY)
    assert len(consumer(client, keys).claim(worker, 9)) == 9
    if end == "killed":
        lapse(client, keys, worker)
        peer = lease(client, keys)
        peer.register(READY)
        assert peer.recover_lost() == {worker: 9}
    else:
        assert getattr(own, end)() == 9
    assert _listed(client, keys.of(MODEL).queue) == waiting
    assert _listed(client, keys.of(MODEL).polled) == polled
    attempts = cast("dict[bytes, bytes]", client.hgetall(keys.of(MODEL).attempts))
    lost = {*waiting[:7], *polled[:2]} if end == "killed" else set()
    assert {name.decode() for name in attempts} == lost
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())


def test_a_recovered_job_of_either_list_comes_alone(client: redis.Redis, keys: Keys) -> None:
    waiting, polled = _both(client, keys, 4)
    client.hset(keys.of(MODEL).attempts, polled[0], "1")
    worker, taker = lease(client, keys).register(READY), consumer(client, keys)
    assert [each.id for each in taker.claim(worker, 8)] == waiting[:3]
    assert taker.claim(worker, 8) == []  # it is due, but not beside others
    own = lease(client, keys)
    own.register(READY)
    assert [each.id for each in taker.claim(own.worker, 8)] == polled[:1]


def test_a_polled_job_for_another_input_holds_up_nobody_who_waits(client: redis.Redis, keys: Keys) -> None:
    old, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    jobs = [structs.replace(job(), input=new_tag) for _ in range(5)]
    enqueue(client, keys, structs.replace(_polled(), input=old_tag), *jobs)
    of_new = _taker(client, keys, new_tag)
    assert [each.id for each in of_new.claim(new.worker, 8)] == _ids(jobs)
    assert of_new.claim(new.worker, 8) == []
    of_new.wait(5)  # does not: it was left to the other, for whom the bell rings
    assert len(_taker(client, keys, old_tag).claim(old.worker, 8)) == 1


def test_a_draining_worker_sees_the_heads_of_both_lists(client: redis.Redis, keys: Keys) -> None:
    polled = enqueue(client, keys, *(_polled() for _ in range(2)))
    waiting = enqueue(client, keys, *(job() for _ in range(2)))
    lease(client, keys).register(State(WorkerState.DRAINING, "v1"))
    assert consumer(client, keys).oldest() == [waiting[0].accepted_at, polled[0].accepted_at]


def _admit(into: Producer, *, polled: bool, rate: float = 0.0, timeout_s: float = 1e6) -> None:
    into.admit(MODEL, size=1, timeout_s=timeout_s, pace=Pace(rate), polled=polled)


def test_those_that_poll_leave_a_quarter_of_the_queue(client: redis.Redis, keys: Keys) -> None:
    into = producer(client, keys, dataclasses.replace(LIMITS, queue_jobs=8))
    enqueue(client, keys, *(_polled() for _ in range(6)))
    with pytest.raises(Overloaded, match="6 pictures wait") as refusal:
        _admit(into, polled=True, rate=2)
    assert refusal.value.retry_after_s == 3
    for _ in range(2):
        _admit(into, polled=False)
        enqueue(client, keys, job())
    with pytest.raises(Overloaded, match="8 pictures wait") as refusal:
        _admit(into, polled=False, rate=2)
    # Its two alike, and one that is polled, are run before it.
    assert refusal.value.retry_after_s == 2


def test_one_who_waits_is_judged_by_what_goes_before(client: redis.Redis, keys: Keys) -> None:
    into = producer(client, keys)
    enqueue(client, keys, *(_polled() for _ in range(60)), *(job() for _ in range(WAITING_FOR_EACH_POLLED)))
    # Three alike and two that are polled, at 1 a second.
    _admit(into, polled=False, rate=1, timeout_s=10)
    with pytest.raises(Overloaded):
        _admit(into, polled=False, rate=1, timeout_s=9)


def test_one_who_polls_is_judged_as_if_others_kept_coming(client: redis.Redis, keys: Keys) -> None:
    into = producer(client, keys)
    enqueue(client, keys, *(_polled() for _ in range(10)))
    _admit(into, polled=True, rate=1, timeout_s=20)
    enqueue(client, keys, job())
    _admit(into, polled=True, rate=1, timeout_s=80)
    with pytest.raises(Overloaded):
        _admit(into, polled=True, rate=1, timeout_s=79)


def test_a_list_of_another_type_stops_a_claim_before_it_has_changed_anything(
    client: redis.Redis, keys: Keys
) -> None:
    worker = lease(client, keys).register(READY)
    enqueue(client, keys, job())
    client.set(keys.of(MODEL).polled, "x")
    with pytest.raises(BrokerUnavailable, match="polled holds a string, where a list belongs"):
        consumer(client, keys).claim(worker, 1)
    with pytest.raises(BrokerUnavailable, match="polled holds a string, where a list belongs"):
        enqueue(client, keys, _polled())
    assert client.llen(keys.of(MODEL).claims(worker)) == 0
    assert client.llen(keys.of(MODEL).queue) == 1
