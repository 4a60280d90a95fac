"""Redis' clock steps by an hour, as a resumed host's or NTP's does: leases and deadlines survive.

A real server, whose clock faketime steps while it runs. In a cluster (TEST_REDIS=cluster) the model's slot
moves to a node whose clock is an hour apart.
"""

import threading
from collections.abc import Iterator

import pytest
import redis

from broker.clock import clock_of
from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import LeaseLost
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import WorkerState
from broker.outage import Outage
from broker.producer import Limits, PendingJob, Producer
from broker.registry import Registry
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.registration import Registration
from model_server.serving.status import WorkerStatus
from tests.support.fakes import CARD, MODEL, READY, enqueue, job
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # together they wait for seconds

HOUR_S = 3600.0
LEASE_S = 1.0
KEY_TTL_S = 86400
LIMITS = Limits(queue_jobs=100, queue_bytes=10_000_000, result_ttl_s=60, key_ttl_s=KEY_TTL_S)


@pytest.fixture
def client(stepping_redis: RedisServer) -> Iterator[redis.Redis]:
    """A client of the server whose clock is stepped."""
    with connect(stepping_redis.url, timeout_s=5) as connection:
        yield connection


class Peer:
    """A worker with its keeper's thread not started: `tick` is its turn."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.clock = clock_of(client).of(MODEL)
        self.lease = Lease(client, keys, CARD, lease_s=LEASE_S, key_ttl_s=KEY_TTL_S, clock=self.clock)
        stopping = threading.Event()
        status = WorkerStatus(self.lease, MODEL, "v1", stopping)
        registration = Registration(MODEL, self.lease, status, stopping, Outage())
        self._keeper = LeaseKeeper(registration, lease_s=LEASE_S, model_call_max_s=60, on_hung=lambda: None)
        self.consumer = Consumer(client, keys, MODEL, key_ttl_s=KEY_TTL_S, result_ttl_s=60, clock=self.clock)
        self.id = self.lease.register(READY)

    def tick(self) -> None:
        """Renew, and look for lost peers."""
        self._keeper.tick(self.clock.monotonic())

    def claims(self, n: int) -> list[str]:
        """The ids of up to `n` jobs, claimed now."""
        return [each.id for each in self.consumer.claim(self.id, n)]


def _grow_old(*peers: Peer) -> None:
    """Keep their leases until Redis is old enough for one of them to be reaped."""

    def is_old() -> bool:
        for peer in peers:
            peer.tick()
        return peers[0].lease.server_uptime_s() >= LEASE_S

    eventually(is_old)


def _queue_length(client: redis.Redis, keys: Keys) -> int:
    return client.llen(keys.of(MODEL).queue)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_live_workers_keep_their_claims(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer, step_s: float
) -> None:
    one, two = Peer(client, keys), Peer(client, keys)
    _grow_old(one, two)
    enqueue(client, keys, job(), job())
    assert len(one.claims(1)) == len(two.claims(1)) == 1
    stepping_redis.step_clock(step_s)
    for _ in range(3):
        one.tick()
        two.tick()
    # Neither took the other for lost: no job went back, none has an attempt against it.
    assert _queue_length(client, keys) == 0
    assert not client.exists(keys.of(MODEL).attempts)
    one.lease.renew()
    two.lease.renew()


def test_a_dead_worker_s_lease_is_no_longer_for_the_clock_going_back(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer
) -> None:
    jobs = enqueue(client, keys, *(job() for _ in range(7)))
    lost = Peer(client, keys)
    assert len(lost.claims(7)) == 7
    stepping_redis.step_clock(-HOUR_S)
    # A worker that began after the step: it has seen nothing of it.
    successor = Peer(client, keys)

    def are_back() -> bool:
        successor.tick()
        return _queue_length(client, keys) == len(jobs)

    eventually(are_back, within_s=3 * LEASE_S)
    with pytest.raises(LeaseLost):
        lost.lease.renew()


def test_a_worker_that_died_while_the_clock_went_forward_is_reaped_a_lease_later(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer
) -> None:
    (only,) = enqueue(client, keys, job())
    live, lost = Peer(client, keys), Peer(client, keys)
    _grow_old(live, lost)
    assert lost.claims(1) == [only.id]
    stepping_redis.step_clock(HOUR_S)

    def is_back() -> bool:
        live.tick()
        return _queue_length(client, keys) == 1

    eventually(is_back, within_s=4 * LEASE_S)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_polled_jobs_stay_pending_until_their_own_deadline(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer, step_s: float
) -> None:
    clock = clock_of(client)
    maker = Producer(client, keys, LIMITS, clock=clock)
    long, short = job(deadline_in_s=300), job(deadline_in_s=1.5)
    for each in (long, short):
        maker.enqueue(MODEL, each)
        assert maker.poll(MODEL, each.id) == PendingJob(deadline_passed=False)
    stepping_redis.step_clock(step_s)
    assert maker.poll(MODEL, long.id) == PendingJob(deadline_passed=False)
    assert maker.poll(MODEL, short.id) == PendingJob(deadline_passed=False)
    eventually(lambda: maker.poll(MODEL, short.id) == PendingJob(deadline_passed=True), within_s=5)
    assert maker.poll(MODEL, long.id) == PendingJob(deadline_passed=False)
    # Those accepted after it as well, also by a process that began after it.
    late = job(deadline_in_s=300, now=clock.of(MODEL).now())
    maker.enqueue(MODEL, late)
    for reader in (maker, Producer(client, keys, LIMITS)):
        assert reader.poll(MODEL, late.id) == PendingJob(deadline_passed=False)


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
def test_the_web_tier_keeps_its_workers(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer, step_s: float
) -> None:
    worker, clock = Peer(client, keys), clock_of(client)
    registry = Registry(client, keys, clock)
    assert registry.models(fresh=True)[MODEL].state is WorkerState.READY
    stepping_redis.step_clock(step_s)
    # Before the worker has renewed, and after.
    view = registry.models(fresh=True)[MODEL]
    assert view.state is WorkerState.READY
    assert abs(view.last_alive - clock.of(MODEL).now()) < 5
    worker.tick()
    assert registry.models(fresh=True)[MODEL].state is not None
    assert list(Registry(client, keys, clock_of(client)).models()[MODEL].states) == [worker.id]


def test_a_web_process_that_began_after_the_clock_went_back_does_not_wait_for_a_dead_worker(
    client: redis.Redis, keys: Keys, stepping_redis: RedisServer
) -> None:
    Peer(client, keys)
    stepping_redis.step_clock(-HOUR_S)
    view = Registry(client, keys, clock_of(client)).models()[MODEL]
    assert (view.state, view.last_alive) == (None, 0.0)
