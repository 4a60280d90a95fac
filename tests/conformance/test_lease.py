"""lease.lua and the announcements, through Lease, on a real Redis."""

import pytest
import redis

from broker import codec
from broker.clock import RedisClock
from broker.cluster import node_of
from broker.errors import LeaseLost
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import Card, State, WorkerState
from tests.support.fakes import CARD, KEY_TTL_S, MODEL, READY, lapse, lease


def test_registering_publishes_name_card_state_and_lease(client: redis.Redis, keys: Keys) -> None:
    before = client.time()[0]
    worker = lease(client, keys, lease_s=5).register(READY)
    after = client.time()[0] + 1  # whole seconds
    assert client.smembers(keys.models) == {MODEL.encode()}
    card = client.get(keys.of(MODEL).card)
    assert isinstance(card, bytes)
    assert codec.decode(card, Card) == CARD
    state = client.hget(keys.of(MODEL).states, worker)
    assert isinstance(state, bytes)
    told = codec.decode(state, State)
    assert (told.state, told.version, told.card, told.input) == (READY.state, "v1", CARD, "2-2-1-stretch")
    assert before <= told.since <= after
    assert before <= told.heartbeat <= after
    score = client.zscore(keys.of(MODEL).workers, worker)
    assert score is not None
    assert before + 5 <= score <= after + 5
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())


def test_every_registration_has_a_new_id(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    assert own.register(READY) != own.register(READY)


def test_renewing_prolongs(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys, lease_s=50)
    worker = own.register(READY)
    client.zadd(keys.of(MODEL).workers, {worker: client.time()[0] + 1})
    own.renew()
    score = client.zscore(keys.of(MODEL).workers, worker)
    assert score is not None
    assert score > client.time()[0] + 40


def test_a_lapsed_lease_that_nobody_reaped_can_be_renewed(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    worker = own.register(READY)
    lapse(client, keys, worker)
    own.renew()
    score = client.zscore(keys.of(MODEL).workers, worker)
    assert score is not None
    assert score > client.time()[0]


def test_a_reaped_lease_can_not_be_renewed(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    worker = own.register(READY)
    lapse(client, keys, worker)
    lease(client, keys).recover_lost()
    with pytest.raises(LeaseLost):
        own.renew()
    score = client.zscore(keys.of(MODEL).workers, worker)
    assert score is not None
    assert score < 0


def test_a_lease_that_is_gone_can_not_be_renewed(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    own.register(READY)
    client.flushall()
    with pytest.raises(LeaseLost):
        own.renew()
    assert client.keys() == []


def test_an_announcement_replaces_the_state(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    worker = own.register(State(WorkerState.LOADING, "v1"))
    own.announce(State(WorkerState.FAILED, "v1", reason="no weights"))
    state = client.hget(keys.of(MODEL).states, worker)
    assert isinstance(state, bytes)
    assert codec.decode(state, State).reason == "no weights"


def test_a_lease_keeps_the_clock_in_step(client: redis.Redis, keys: Keys) -> None:
    clock = RedisClock(monotonic=lambda: 1000.0)
    clock.sync(0.0, sent=0.0, received=0.0)
    Lease(client, keys, CARD, lease_s=5, key_ttl_s=KEY_TTL_S, clock=clock).register(READY)
    assert abs(clock.now() - client.time()[0]) < 5


def test_uptime_is_that_of_the_server(client: redis.Redis, keys: Keys) -> None:
    home = node_of(client, keys.of(MODEL).workers)
    assert abs(lease(client, keys).server_uptime_s() - home.info("server")["uptime_in_seconds"]) <= 1
