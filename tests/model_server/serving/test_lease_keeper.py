"""The keeper, tick by tick, on a real Redis: renewal, recovery, and the end of a hung process."""

import time
from pathlib import Path

import pytest
import redis

from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from model_server.serving.health_file import HealthFiles, verdict
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.worker import Worker
from tests.support import fakes
from tests.support.fakes import MODEL, READY, FakeEngine, enqueue, job, lapse
from tests.support.waiting import eventually

LEASE_S = 3.0


@pytest.fixture
def worker(client: redis.Redis, keys: Keys, tmp_path: Path) -> Worker:
    return fakes.worker(client, keys, FakeEngine(), tmp_path, lease_s=LEASE_S)


@pytest.fixture
def ended() -> list[bool]:
    return []


@pytest.fixture
def keeper(worker: Worker, ended: list[bool], monkeypatch: pytest.MonkeyPatch) -> LeaseKeeper:
    monkeypatch.setattr(Lease, "server_uptime_s", lambda _: 1000)
    return LeaseKeeper(
        worker.registration, lease_s=LEASE_S, model_call_max_s=60, on_hung=lambda: ended.append(True)
    )


def _lost_peer(client: redis.Redis, keys: Keys) -> str:
    enqueue(client, keys, job())
    lost = fakes.lease(client, keys).register(READY)
    fakes.consumer(client, keys).claim(lost, 1)
    lapse(client, keys, lost)
    return lost


def test_a_tick_renews_and_announces(
    client: redis.Redis, keys: Keys, worker: Worker, keeper: LeaseKeeper
) -> None:
    lapse(client, keys, worker.lease.worker)
    client.delete(keys.of(MODEL).card)
    keeper.tick(0.0)
    score = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    assert score is not None
    assert score > client.time()[0]
    assert client.exists(keys.of(MODEL).card)


@pytest.mark.parametrize("is_of_shard", [False, True])
def test_a_renewal_is_written_down_once_the_worker_serves(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_of_shard: bool
) -> None:
    """Not that of a shard: the check would go by whichever lease was renewed last."""
    monkeypatch.setattr(Lease, "is_of_shard", is_of_shard)
    folder = tmp_path / "health"
    files = HealthFiles(folder)
    keeper = LeaseKeeper(
        worker.registration, lease_s=LEASE_S, model_call_max_s=60, on_hung=lambda: None, health=files
    )
    told = []
    for state in (State(WorkerState.LOADING, "v1"), READY):
        worker.status.publish(state)
        keeper.tick(0.0)
        told.append(verdict(folder, time.time()))
    files.clear()
    unserved = "no model is served yet"
    assert told == [unserved, unserved if is_of_shard else ""]


def test_a_reaped_worker_is_registered_anew(
    client: redis.Redis, keys: Keys, worker: Worker, keeper: LeaseKeeper
) -> None:
    old = worker.lease.worker
    lapse(client, keys, old)
    fakes.lease(client, keys).recover_lost()
    keeper.tick(0.0)
    assert worker.lease.worker != old
    assert client.hexists(keys.of(MODEL).states, worker.lease.worker)


def test_a_tick_recovers_lost_peers(client: redis.Redis, keys: Keys, keeper: LeaseKeeper) -> None:
    lost = _lost_peer(client, keys)
    keeper.tick(0.0)
    assert client.llen(keys.of(MODEL).claims(lost)) == 0
    assert client.llen(keys.of(MODEL).queue) == 1


def test_the_keeper_is_awake_when_the_lease_of_a_peer_lapses(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "server_uptime_s", lambda _: 1000)
    keeper = LeaseKeeper(worker.registration, lease_s=60, model_call_max_s=60, on_hung=lambda: None)
    assert keeper.tick(0.0) == 20
    fakes.lease(client, keys, lease_s=60).register(READY)
    assert keeper.tick(0.0) == 20
    dying = fakes.lease(client, keys, lease_s=15).register(READY)
    assert 5 < keeper.tick(0.0) < 16
    lapse(client, keys, dying)
    assert keeper.tick(0.0) == 20


def test_nobody_is_reaped_in_the_first_lease_after_an_outage(
    client: redis.Redis, keys: Keys, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Lease) -> None:
        raise BrokerUnavailable("Redis is away")

    with monkeypatch.context() as outage:
        outage.setattr(Lease, "renew", away)
        keeper.tick(10.0)
    lost = _lost_peer(client, keys)
    for now in (11.0, 11.0 + LEASE_S - 0.1):
        keeper.tick(now)
        assert client.llen(keys.of(MODEL).claims(lost)) == 1
    keeper.tick(11.0 + LEASE_S)
    assert client.llen(keys.of(MODEL).claims(lost)) == 0


def test_nobody_is_reaped_while_redis_is_younger_than_a_lease(
    client: redis.Redis, keys: Keys, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = _lost_peer(client, keys)
    monkeypatch.setattr(Lease, "server_uptime_s", lambda _: 2)
    keeper.tick(0.0)
    assert client.llen(keys.of(MODEL).claims(lost)) == 1


def test_a_call_that_takes_too_long_is_told_once_and_its_lease_left_to_lapse(
    client: redis.Redis, keys: Keys, worker: Worker, keeper: LeaseKeeper, ended: list[bool]
) -> None:
    worker.status.call_began = 100.0
    keeper.tick(160.0)
    assert not ended
    lease = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    keeper.tick(160.1)
    keeper.tick(161.1)
    assert (ended, worker.status.is_hung) == ([True], True)
    assert client.zscore(keys.of(MODEL).workers, worker.lease.worker) == lease


def test_a_worker_that_has_left_is_not_brought_back(
    client: redis.Redis, keys: Keys, worker: Worker, keeper: LeaseKeeper
) -> None:
    worker.stopping.set()
    worker.leave()
    keeper.tick(0.0)
    worker.registration.ensure(lost=worker.lease.worker)
    score = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    assert score is not None
    assert score < 0
    assert client.hgetall(keys.of(MODEL).states) == {}


def test_an_error_of_ours_does_not_end_the_thread(
    worker: Worker, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Lease, "announce", lambda *_: 1 / 0)
        keeper.tick(0.0)
    worker.lease.register(READY)
    keeper.tick(0.0)


@pytest.mark.slow
def test_the_thread_renews_while_the_worker_s_thread_is_busy(
    client: redis.Redis, keys: Keys, worker: Worker, keeper: LeaseKeeper
) -> None:
    first = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    assert first is not None
    keeper.start()
    try:
        eventually(lambda: (client.zscore(keys.of(MODEL).workers, worker.lease.worker) or 0) > first + 0.5)
    finally:
        keeper.close()
    assert not keeper.is_alive()
