"""claim.lua through Consumer.claim, on a real Redis: what it takes, in which order, and what it refuses."""

from dataclasses import replace

import pytest
import redis
from msgspec import structs

from broker import codec
from broker.clock import RedisClock
from broker.consumer import Consumer
from broker.errors import LeaseLost
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from tests.support.fakes import (
    CARD,
    KEY_TTL_S,
    MODEL,
    READY,
    SPEC,
    consumer,
    enqueue,
    job,
    lapse,
    lease,
    producer,
)


def _register(client: redis.Redis, keys: Keys) -> str:
    return lease(client, keys).register(READY)


def test_takes_the_oldest_first_and_no_more_than_asked(client: redis.Redis, keys: Keys) -> None:
    jobs = enqueue(client, keys, *(job() for _ in range(5)))
    worker = _register(client, keys)
    claimed = consumer(client, keys).claim(worker, 3)
    assert [each.id for each in claimed] == [each.id for each in jobs[:3]]
    assert client.llen(keys.of(MODEL).queue) == 2
    assert client.llen(keys.of(MODEL).claims(worker)) == 3


def test_an_empty_queue_gives_nothing(client: redis.Redis, keys: Keys) -> None:
    assert consumer(client, keys).claim(_register(client, keys), 3) == []


def test_a_claim_that_gets_less_than_it_asked_for_has_emptied_the_queue(
    client: redis.Redis, keys: Keys
) -> None:
    enqueue(client, keys, *(job() for _ in range(5)))
    worker, taker = _register(client, keys), consumer(client, keys)
    told = []
    for most in (2, 4, 4):
        taker.claim(worker, most)
        told.append(taker.is_emptied)
    assert told == [False, True, False]  # of an empty one nothing is said: no bell may ring for what it has


def test_the_last_of_the_queue_silences_the_bell(client: redis.Redis, keys: Keys) -> None:
    """Its other tokens would only wake workers for nothing; while a job waits they must stay."""
    enqueue(client, keys, *(job() for _ in range(5)))
    worker, taker = _register(client, keys), consumer(client, keys)
    taker.claim(worker, 3)
    assert client.llen(keys.of(MODEL).bell) == 5
    taker.claim(worker, 3)
    assert client.llen(keys.of(MODEL).bell) == 0


def test_a_recovered_job_that_can_not_be_taken_yet_rings_once_more(client: redis.Redis, keys: Keys) -> None:
    """Else its worker would sleep beside it; but once, however often it is tried."""
    lost, mine = _register(client, keys), _register(client, keys)
    enqueue(client, keys, job(), job())
    taker = consumer(client, keys)
    taker.claim(lost, 1)
    taker.claim(mine, 1)
    lapse(client, keys, lost)
    lease(client, keys).recover_lost()
    client.delete(keys.of(MODEL).bell)
    assert [taker.claim(mine, 1) for _ in range(3)] == [[], [], []]
    assert client.llen(keys.of(MODEL).bell) == 1
    assert client.ttl(keys.of(MODEL).bell) > 0


def test_a_second_claim_reads_only_its_own_jobs(client: redis.Redis, keys: Keys) -> None:
    jobs = enqueue(client, keys, *(job() for _ in range(5)))
    worker, taker = _register(client, keys), consumer(client, keys)
    taker.claim(worker, 2)
    claimed = taker.claim(worker, 2)
    assert [each.id for each in claimed] == [each.id for each in jobs[2:4]]
    assert [codec.decode_job(each.payload).id for each in claimed] == [each.id for each in jobs[2:4]]


def test_two_workers_never_get_the_same_job(client: redis.Redis, keys: Keys) -> None:
    jobs = enqueue(client, keys, *(job() for _ in range(6)))
    first, second = _register(client, keys), _register(client, keys)
    taker = consumer(client, keys)
    taken = [each.id for worker in (first, second) for each in taker.claim(worker, 3)]
    assert sorted(taken) == sorted(each.id for each in jobs)


def test_refuses_a_worker_that_never_registered(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job())
    with pytest.raises(LeaseLost):
        consumer(client, keys).claim("nobody", 3)
    assert client.llen(keys.of(MODEL).queue) == 1


def test_refuses_a_lapsed_lease(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job())
    worker = _register(client, keys)
    lapse(client, keys, worker)
    with pytest.raises(LeaseLost):
        consumer(client, keys).claim(worker, 3)
    assert client.llen(keys.of(MODEL).queue) == 1


def test_refuses_a_tombstone(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job())
    own = lease(client, keys)
    worker = own.register(READY)
    own.leave()
    with pytest.raises(LeaseLost):
        consumer(client, keys).claim(worker, 3)


def test_a_recovered_job_comes_alone(client: redis.Redis, keys: Keys) -> None:
    first, second, third = enqueue(client, keys, job(), job(), job())
    client.hset(keys.of(MODEL).attempts, second.id, "1")
    worker, taker = _register(client, keys), consumer(client, keys)
    assert [each.id for each in taker.claim(worker, 3)] == [first.id]
    assert (taker.is_emptied, taker.wait(5) is not None) == (True, True)
    # While something else is held, it is left in its place.
    assert taker.claim(worker, 3) == []
    assert client.llen(keys.of(MODEL).queue) == 2
    lease_two = _register(client, keys)
    alone = taker.claim(lease_two, 3)
    assert [(each.id, each.attempts) for each in alone] == [(second.id, 1)]
    assert client.llen(keys.of(MODEL).queue) == 1
    assert third.id in str(client.lindex(keys.of(MODEL).queue, 0))


def test_a_job_that_comes_alone_says_nothing_of_the_queue(client: redis.Redis, keys: Keys) -> None:
    lost, mine = _register(client, keys), _register(client, keys)
    enqueue(client, keys, job(), job())
    taker = consumer(client, keys)
    taker.claim(lost, 1)
    lapse(client, keys, lost)
    lease(client, keys).recover_lost()
    assert len(taker.claim(mine, 4)) == 1
    assert not taker.is_emptied


def test_a_job_that_comes_alone_needs_no_second_question(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (only,) = enqueue(client, keys, job())
    queued = client.lindex(keys.of(MODEL).queue, 0)
    worker = _register(client, keys)
    monkeypatch.setattr(redis.Redis, "lrange", None)
    (claimed,) = consumer(client, keys).claim(worker, 8)
    assert (claimed.id, claimed.attempts, claimed.pending) == (only.id, 0, True)
    assert claimed.payload == queued


def test_tells_which_jobs_nobody_waits_for(client: redis.Redis, keys: Keys) -> None:
    wanted, cancelled = enqueue(client, keys, job(), job())
    producer(client, keys).cancel(MODEL, cancelled.id)
    claimed = consumer(client, keys).claim(_register(client, keys), 2)
    assert [(each.id, each.pending) for each in claimed] == [(wanted.id, True), (cancelled.id, False)]


def test_garbage_in_the_queue_is_claimed_as_unwanted(client: redis.Redis, keys: Keys) -> None:
    client.rpush(keys.of(MODEL).queue, b"\xff\x00 not a job")
    (garbage,) = consumer(client, keys).claim(_register(client, keys), 2)
    assert not garbage.pending
    assert garbage.payload == b"\xff\x00 not a job"


def test_a_claim_that_is_taken_back_while_it_is_read_is_no_claim(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue(client, keys, job(), job())
    own = lease(client, keys)
    worker = own.register(READY)
    read = redis.Redis.lrange

    def taken_back_first(self: redis.Redis, *args: object) -> object:
        own.give_back()
        return read(self, *args)  # type: ignore[call-overload]

    monkeypatch.setattr(redis.Redis, "lrange", taken_back_first)
    with pytest.raises(LeaseLost):
        consumer(client, keys).claim(worker, 2)


def test_every_key_of_a_claim_has_a_ttl(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job(), job())
    consumer(client, keys).claim(_register(client, keys), 1)
    assert {name for name in client.keys() if client.ttl(name) < 0} == set()


@pytest.mark.parametrize("timeout_s", [0.0005, 0.001])
def test_a_wait_ends_however_short_it_is(client: redis.Redis, keys: Keys, timeout_s: float) -> None:
    """Redis 6.2 would wait for ever, and the client's own time-out would raise."""
    consumer(client, keys).wait(timeout_s)


def _register_as(
    client: redis.Redis, keys: Keys, state: State = READY, *, side: int = 2
) -> tuple[Lease, str]:
    """A lease whose worker takes pictures of that size; and the tag of these."""
    input_ = replace(SPEC, width=side, height=side)
    own = Lease(
        client,
        keys,
        replace(CARD, input=input_),
        lease_s=30,
        key_ttl_s=KEY_TTL_S,
        clock=RedisClock(),
    )
    own.register(state)
    return own, input_.tag


def _taker(client: redis.Redis, keys: Keys, tag: str) -> Consumer:
    return Consumer(client, keys, MODEL, key_ttl_s=KEY_TTL_S, result_ttl_s=60, input_tag=tag)


def test_a_job_for_another_input_is_left_to_the_worker_that_takes_it(client: redis.Redis, keys: Keys) -> None:
    old, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    enqueue(
        client, keys, *(structs.replace(job(), input=tag) for tag in (old_tag, old_tag, new_tag, old_tag))
    )
    of_new, of_old = _taker(client, keys, new_tag), _taker(client, keys, old_tag)
    client.delete(keys.of(MODEL).bell)
    assert [of_new.claim(new.worker, 4) for _ in range(3)] == [[], [], []]
    assert client.llen(keys.of(MODEL).bell) == 1  # for the other, once however often it was tried
    assert len(of_old.claim(old.worker, 4)) == 2
    assert len(of_new.claim(new.worker, 4)) == 1
    assert client.llen(keys.of(MODEL).queue) == 1


@pytest.mark.parametrize("end", ["lapsed", "left", "failed", "draining"])
def test_it_is_left_only_while_that_worker_lives_and_has_not_failed(
    client: redis.Redis, keys: Keys, end: str
) -> None:
    old, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    enqueue(client, keys, structs.replace(job(), input=old_tag))
    match end:
        case "lapsed":
            lapse(client, keys, old.worker)
        case "left":
            old.leave()
        case "failed":
            old.announce(State(WorkerState.FAILED, "v1", reason="no weights"))
        case "draining":
            old.announce(State(WorkerState.DRAINING, "v1"))
    claimed = _taker(client, keys, new_tag).claim(new.worker, 4)
    assert len(claimed) == (0 if end == "draining" else 1)


@pytest.mark.parametrize("end", ["cancelled", "late"])
def test_a_job_that_nobody_waits_for_is_left_to_nobody(client: redis.Redis, keys: Keys, end: str) -> None:
    """Its worker may be long in coming, and what stands behind it would wait for nothing."""
    _, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    dead = structs.replace(job(deadline_in_s=0.0 if end == "late" else 60.0), input=old_tag)
    enqueue(client, keys, dead, structs.replace(job(), input=new_tag))
    if end == "cancelled":
        producer(client, keys).cancel(MODEL, dead.id)
    claimed = _taker(client, keys, new_tag).claim(new.worker, 4)
    assert [each.pending for each in claimed] == [end == "late", True]


@pytest.mark.parametrize("mine", [WorkerState.READY, WorkerState.DRAINING])
def test_who_is_ready_leaves_nothing_to_one_that_still_loads(
    client: redis.Redis, keys: Keys, mine: WorkerState
) -> None:
    """One that drains does: the other takes its place."""
    _, loading_tag = _register_as(client, keys, State(WorkerState.LOADING, "v1"))
    own, own_tag = _register_as(client, keys, State(mine, "v1"), side=4)
    enqueue(client, keys, *(structs.replace(job(), input=tag) for tag in (loading_tag, own_tag)))
    claimed = _taker(client, keys, own_tag).claim(own.worker, 4)
    assert len(claimed) == (2 if mine is WorkerState.READY else 0)


def test_a_job_without_a_tag_is_anybody_s(client: redis.Redis, keys: Keys) -> None:
    _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    enqueue(client, keys, job())
    assert len(_taker(client, keys, new_tag).claim(new.worker, 4)) == 1


def test_who_left_a_job_to_others_does_not_wait_for_the_bell(client: redis.Redis, keys: Keys) -> None:
    """It rings for the others; woken by it, this one would claim and leave without a pause."""
    _, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    enqueue(client, keys, structs.replace(job(), input=old_tag))
    taker = _taker(client, keys, new_tag)
    taker.claim(new.worker, 4)
    taker.wait(5)
    assert client.llen(keys.of(MODEL).bell) == 1
