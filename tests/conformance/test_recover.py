"""recover.lua through Lease, on a real Redis: who may give whose jobs back, in which order."""

from typing import cast

import pytest
import redis

from broker.errors import LeaseLost
from broker.keys import Keys
from broker.lease import TOMBSTONE_S
from tests.support.fakes import KEY_TTL_S, MODEL, READY, consumer, enqueue, job, lapse, lease


def _queue(client: redis.Redis, keys: Keys) -> list[str]:
    entries = cast("list[bytes]", client.lrange(keys.of(MODEL).queue, 0, -1))
    return [entry[7:43].decode() for entry in entries]


def _attempts(client: redis.Redis, keys: Keys) -> dict[str, int]:
    attempts = cast("dict[bytes, bytes]", client.hgetall(keys.of(MODEL).attempts))
    return {name.decode(): int(n) for name, n in attempts.items()}


def test_a_lapsed_worker_s_jobs_go_back_to_the_head_in_order_each_with_an_attempt(
    client: redis.Redis, keys: Keys
) -> None:
    jobs = [each.id for each in enqueue(client, keys, *(job() for _ in range(4)))]
    lost = lease(client, keys).register(READY)
    consumer(client, keys).claim(lost, 3)
    lapse(client, keys, lost)
    peer = lease(client, keys)
    peer.register(READY)
    assert peer.recover_lost() == {lost: 3}
    assert _queue(client, keys) == jobs
    assert _attempts(client, keys) == dict.fromkeys(jobs[:3], 1)
    assert client.llen(keys.of(MODEL).claims(lost)) == 0
    assert not client.hexists(keys.of(MODEL).states, lost)


def test_the_next_lapse_is_that_of_the_first_peer(client: redis.Redis, keys: Keys) -> None:
    mine = lease(client, keys, lease_s=1)
    mine.register(READY)
    assert mine.next_lapse_s() is None
    lease(client, keys, lease_s=30).register(READY)
    first = lease(client, keys, lease_s=10).register(READY)
    in_s = mine.next_lapse_s()
    assert in_s is not None
    assert 5 < in_s <= 10.5
    lapse(client, keys, first)
    in_s = mine.next_lapse_s()
    assert in_s is not None
    assert 20 < in_s <= 30.5


def test_attempts_add_up(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job())
    for _ in range(3):
        lost = lease(client, keys).register(READY)
        consumer(client, keys).claim(lost, 1)
        lapse(client, keys, lost)
        lease(client, keys).recover_lost()
    assert _attempts(client, keys) == {only.id: 3}


def test_a_live_worker_is_left_alone(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job())
    live = lease(client, keys).register(READY)
    consumer(client, keys).claim(live, 1)
    peer = lease(client, keys)
    # Asked by name, as by a peer whose clock is wrong.
    assert peer._run_recover(live, "lapsed") == [b"live"]
    assert client.llen(keys.of(MODEL).claims(live)) == 1
    assert _attempts(client, keys) == {}


def test_an_unknown_worker_is_refused(client: redis.Redis, keys: Keys) -> None:
    assert lease(client, keys)._run_recover("nobody", "lapsed") == [b"unknown"]
    assert client.keys() == []


def test_a_second_recovery_finds_nothing(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job())
    lost = lease(client, keys).register(READY)
    consumer(client, keys).claim(lost, 1)
    lapse(client, keys, lost)
    one, two = lease(client, keys), lease(client, keys)
    assert one.recover_lost() == {lost: 1}
    assert two.recover_lost() == {}
    assert _attempts(client, keys) == {only.id: 1}


def test_what_a_tombstone_still_holds_is_swept(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job())
    lost = lease(client, keys).register(READY)
    lapse(client, keys, lost)
    peer = lease(client, keys)
    peer.recover_lost()
    client.lmove(keys.of(MODEL).queue, keys.of(MODEL).claims(lost), "LEFT", "RIGHT")
    assert peer.recover_lost() == {lost: 1}
    assert _queue(client, keys) == [only.id]


def test_an_old_tombstone_is_forgotten_and_a_young_one_kept(client: redis.Redis, keys: Keys) -> None:
    now = client.time()[0]
    client.zadd(keys.of(MODEL).workers, {"old": -(now - TOMBSTONE_S - 5), "young": -(now - TOMBSTONE_S + 60)})
    lease(client, keys).recover_lost()
    assert client.zrange(keys.of(MODEL).workers, 0, -1) == [b"young"]


def test_giving_back_keeps_the_lease_and_costs_no_attempt(client: redis.Redis, keys: Keys) -> None:
    jobs = [each.id for each in enqueue(client, keys, job(), job())]
    own = lease(client, keys)
    worker = own.register(READY)
    consumer(client, keys).claim(worker, 2)
    assert own.give_back() == 2
    assert _queue(client, keys) == jobs
    assert _attempts(client, keys) == {}
    assert [each.id for each in consumer(client, keys).claim(worker, 2)] == jobs


def test_leaving_gives_back_and_ends_the_lease(client: redis.Redis, keys: Keys) -> None:
    jobs = [each.id for each in enqueue(client, keys, job(), job())]
    own = lease(client, keys)
    worker = own.register(READY)
    consumer(client, keys).claim(worker, 1)
    assert own.leave() == 1
    assert _queue(client, keys) == jobs
    assert _attempts(client, keys) == {}
    score = client.zscore(keys.of(MODEL).workers, worker)
    assert score is not None
    assert score < 0
    assert not client.hexists(keys.of(MODEL).states, worker)


@pytest.mark.parametrize("verb", ["give_back", "leave"])
def test_a_worker_without_a_live_lease_gives_nothing_back(client: redis.Redis, keys: Keys, verb: str) -> None:
    enqueue(client, keys, job())
    own = lease(client, keys)
    worker = own.register(READY)
    consumer(client, keys).claim(worker, 1)
    lapse(client, keys, worker)
    with pytest.raises(LeaseLost):
        getattr(own, verb)()
    assert client.llen(keys.of(MODEL).claims(worker)) == 1


def test_what_goes_back_rings_the_bell(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, job(), job())
    client.delete(keys.of(MODEL).bell)
    lost = lease(client, keys).register(READY)
    consumer(client, keys).claim(lost, 2)
    lapse(client, keys, lost)
    lease(client, keys).recover_lost()
    assert client.llen(keys.of(MODEL).bell) == 2
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())
