"""A Redis Cluster under load: its slots move between nodes, a node dies and its replica takes over.

Every accepted job is answered once, and those who wait hear of it.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from msgspec import structs
from redis.crc import key_slot

from broker import codec
from broker.clock import clock_of
from broker.cluster import node_of, nodes
from broker.connection import connect
from broker.consumer import CompletedJob
from broker.errors import BrokerUnavailable, LeaseLost
from broker.keys import Keys
from broker.messages import Result
from broker.registry import Registry
from broker.replies import Replies
from tests.support.channels import publish, subscribers
from tests.support.fakes import CARD, LIMITS, MODEL, READY, consumer, job, lease, producer
from tests.support.redis_cluster import RedisCluster, running_cluster
from tests.support.waiting import eventually
from web.model_choice import ModelChooser, ModelNames

pytestmark = pytest.mark.slow

MOVES = 12
JOBS = 150


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    """A cluster for this test alone."""
    with running_cluster() as made:
        yield made


@pytest.fixture
def client(cluster: RedisCluster) -> Iterator[redis.Redis]:
    """A client of it."""
    with connect(cluster.url, timeout_s=2) as made:
        yield made


class Side:
    """A thread that goes on through what Redis refuses for a moment."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.answers: Counter[str] = Counter()
        self._client, self._keys = client, keys
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Side":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        own, queue = lease(self._client, self._keys), consumer(self._client, self._keys)
        worker = ""
        while not self._stopping.is_set():
            try:
                worker = worker or own.register(READY)
                own.renew()
                if queue.held(worker):
                    own.give_back()  # a claim whose reply was lost
                claimed = queue.claim(worker, 4)
                done = [
                    CompletedJob(each.id, Result(id=each.id, model=MODEL, model_version="v1"), "web-1")
                    for each in claimed
                ]
                while done:
                    try:
                        if queue.complete(worker, done):
                            self.answers.update(each.id for each in done)
                        done = []
                    except BrokerUnavailable:
                        time.sleep(0.02)
                if not claimed:
                    queue.wait(0.1)
            except LeaseLost:
                worker = ""
            except BrokerUnavailable:
                time.sleep(0.02)


def test_slots_that_move_lose_and_repeat_no_job(
    cluster: RedisCluster, client: redis.Redis, keys: Keys
) -> None:
    replies = Replies(connect(cluster.url, timeout_s=2), keys, "web-1", reread_s=0.5)
    replies.start()
    into, accepted, refused = producer(client, keys), list[str](), 0
    mover = threading.Thread(target=lambda: [cluster.move(keys.of(MODEL).queue) for _ in range(MOVES)])
    try:
        with Side(client, keys) as worker:
            mover.start()
            waiters = []
            while len(accepted) < JOBS or mover.is_alive():
                each = job(reply_to="web-1")
                waiter = replies.expect(MODEL, each.id)
                try:
                    into.enqueue(MODEL, each)
                except BrokerUnavailable:
                    refused += 1
                    continue
                waiter.is_enqueued = True
                waiters.append(waiter)
                accepted.append(each.id)
                time.sleep(0.005)
            mover.join()
            results = [waiter.wait(20) for waiter in waiters]
            assert [result.id for result in results if result is not None] == accepted
        assert max(worker.answers.values()) == 1
        assert refused < JOBS
    finally:
        replies.stop()
    own = keys.of(MODEL)
    assert client.llen(own.queue) == 0
    assert client.keys(own.claims("*")) == []


def test_messages_follow_the_slot_without_a_look_at_the_keys(
    cluster: RedisCluster, client: redis.Redis, keys: Keys
) -> None:
    replies = Replies(connect(cluster.url, timeout_s=2), keys, "web-1", reread_s=2.0)
    replies.start()
    try:
        assert replies.is_subscribed(20)
        for number in range(3):
            waiter = replies.expect(MODEL, f"job-{number}")
            eventually(lambda: subscribers(client, keys, MODEL, "web-1") == 1)
            result = Result(id=f"job-{number}", model=MODEL, model_version="v1")
            publish(client, keys, MODEL, "web-1", codec.encode(result))  # no key has it
            assert waiter.wait(20) == result
            cluster.move(keys.of(MODEL).workers)
            client.get(keys.of(MODEL).card)
    finally:
        replies.stop()


def test_a_bell_whose_slot_moves_is_waited_for_on_the_other_node(
    cluster: RedisCluster, client: redis.Redis, keys: Keys
) -> None:
    rung: list[str | None] = []
    bell = keys.of(MODEL).bell
    waiting = threading.Thread(target=lambda: rung.append(consumer(client, keys).wait(1.9)))
    waiting.start()
    cluster.move(bell)
    with connect(cluster.url, timeout_s=2) as other:
        other.rpush(bell, "1")
    waiting.join()
    assert rung == [bell]


def test_a_node_that_dies_takes_only_its_models_and_its_replica_brings_them_back(keys: Keys) -> None:
    with running_cluster(replicas=1) as cluster, connect(cluster.url, timeout_s=1) as client:
        lost, home = keys.of(MODEL), cluster.owner_of(keys.of(MODEL).queue)
        other = next(name for name in "abcdefgh" if cluster.owner_of(keys.of(name).queue) is not home)
        worker = lease(client, keys)
        worker.register(READY)
        registry = Registry(client, keys, clock_of(client))
        lease(client, keys, card=replace(CARD, model=other)).register(READY)
        into = producer(client, keys)
        before = job()
        into.enqueue(MODEL, before)
        assert set(registry.models(fresh=True)) == {MODEL, other}
        eventually(lambda: _is_copied(cluster, lost.queue))
        home.stop(kill=True)
        assert set(registry.models(fresh=True)) - {MODEL} == {other}
        chooser = ModelChooser(registry, clock_of(client), ModelNames((other,), other), request_timeout_s=10)
        with pytest.raises(BrokerUnavailable, match="Redis can't list its models"):
            chooser.named(MODEL)  # it is not unknown
        with pytest.raises(BrokerUnavailable):
            into.enqueue(MODEL, job())

        def is_back() -> bool:
            try:
                worker.renew()
                return registry.models(fresh=True)[MODEL].state is READY.state
            except (BrokerUnavailable, KeyError):
                return False

        eventually(is_back, within_s=30)
        assert cluster.owner_of(lost.queue) is not home
        assert [each.id for each in consumer(client, keys).claim(worker.worker, 4)] == [before.id]
        assert node_of(client, lost.queue).llen(lost.claims(worker.worker)) == 1


def test_how_young_redis_is_is_told_of_the_model_s_own_node(cluster: RedisCluster, keys: Keys) -> None:
    with connect(cluster.url, timeout_s=2) as before:
        first = nodes(before)[0]
        name = next(each for each in "abcdefgh" if node_of(before, keys.of(each).workers) is not first)
    home = cluster.owner_of(keys.of(name).workers)
    home.stop()
    cluster.start()
    with connect(cluster.url, timeout_s=2) as client:
        uptime_s = lease(client, keys, card=replace(CARD, model=name)).server_uptime_s()
        # Else a worker there would be reaped before it could renew its lease.
        assert uptime_s < nodes(client)[0].info("server")["uptime_in_seconds"]


def test_a_polled_job_is_accepted_once_a_replica_of_its_own_node_has_it(keys: Keys) -> None:
    with running_cluster(primaries=2, replicas=1) as cluster, connect(cluster.url, timeout_s=2) as client:
        own = keys.of(MODEL)
        home = cluster.owner_of(own.queue)
        other = next(name for name in "abcdefgh" if cluster.owner_of(keys.of(name).queue) is not home)
        replica = cluster.nodes[2 + cluster.nodes.index(home)]
        into = producer(client, keys, replace(LIMITS, replicas=1))
        kept, lost, elsewhere = (structs.replace(job(), polled=True) for _ in range(3))
        into.enqueue(MODEL, kept)
        slot = key_slot(own.queue.encode())
        assert own.result(kept.id) in replica.call("CLUSTER GETKEYSINSLOT", slot, 100)
        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(BrokerUnavailable, match=r"0 of 1 \(REDIS_REPLICAS\) had it"):
                into.enqueue(MODEL, lost)
            assert not client.exists(own.result(lost.id))
            into.enqueue(other, elsewhere)  # its node's replica is well
        finally:
            replica.process.send_signal(signal.SIGCONT)

        def is_accepted() -> bool:
            try:
                return into.enqueue(MODEL, lost) == lost.id
            except BrokerUnavailable:
                return False

        eventually(is_accepted)
        # Where the slot has moved to, that node's replica counts.
        moved = structs.replace(job(), polled=True)
        target = cluster.move(own.queue)
        into.enqueue(MODEL, moved)
        replica = cluster.nodes[2 + cluster.nodes.index(target)]
        assert own.result(moved.id) in replica.call("CLUSTER GETKEYSINSLOT", slot, 100)


def _is_copied(cluster: RedisCluster, key: str) -> bool:
    """Whether a replica has this key, too."""
    replicas = [node for node in cluster.nodes if node not in cluster.primaries()]
    slot = key_slot(key.encode())
    return any(node.call("CLUSTER COUNTKEYSINSLOT", slot) for node in replicas)
