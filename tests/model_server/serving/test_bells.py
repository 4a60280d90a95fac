"""A thread for each bell: it wakes the worker, and takes no token from others while that is busy."""

import threading
from collections.abc import Iterator

import pytest
import redis

from broker.clock import RedisClock
from broker.cluster import nodes
from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import MOST_SHARDS
from model_server.serving.bells import Bells
from tests.support.fakes import MODEL, consumer
from tests.support.waiting import eventually


@pytest.fixture
def bells() -> Iterator[Bells]:
    made = Bells(MODEL)
    yield made
    made.close()


@pytest.fixture
def consumers(client: redis.Redis, keys: Keys) -> list[Consumer]:
    own = consumer(client, keys)
    return [own, own.of_shard(0, RedisClock()), own.of_shard(1, RedisClock())]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_bell_wakes_the_worker(
    client: redis.Redis, bells: Bells, consumers: list[Consumer], number: int
) -> None:
    bell = consumers[number].bell
    client.rpush(bell, "1")
    assert bells.wait(consumers, 20) == {bell}
    assert client.llen(bell) == 0
    assert bells.wait(consumers, 0.01) == set()


def test_a_token_that_comes_while_the_worker_is_busy_is_handed_on(
    client: redis.Redis, bells: Bells, consumers: list[Consumer]
) -> None:
    assert bells.wait(consumers, 0.05) == set()  # its threads block for up to a second more
    bell = consumers[1].bell
    client.rpush(bell, "1")
    eventually(lambda: client.info("clients")["blocked_clients"] == 0)
    eventually(lambda: client.llen(bell) == 1)
    assert client.ttl(bell) > 0
    assert bells.wait(consumers, 20) == {bell}


def test_an_outage_of_its_node_silences_no_bell_for_good(
    client: redis.Redis, bells: Bells, consumers: list[Consumer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, failed = consumers[1], threading.Event()
    ringing = one.ringing

    def fail_once(timeout_s: float) -> bool:
        if failed.is_set():
            return ringing(timeout_s)
        failed.set()
        raise BrokerUnavailable("no connection")

    monkeypatch.setattr(one, "ringing", fail_once)
    client.rpush(one.bell, "1")
    assert bells.wait(consumers, 10) == {one.bell}


def test_its_threads_end_with_it(client: redis.Redis, bells: Bells, consumers: list[Consumer]) -> None:
    bells.wait(consumers, 0.01)
    eventually(lambda: client.info("clients")["blocked_clients"] == 0)  # none is wanted any more
    bells.close()
    eventually(lambda: not any(thread.is_alive() for thread in bells._threads.values()))


def test_the_most_shards_block_beside_other_commands(
    redis_url: str, client: redis.Redis, keys: Keys, bells: Bells
) -> None:
    with connect(redis_url, timeout_s=5, blocking=MOST_SHARDS + 1) as shared:
        own = consumer(shared, keys)
        parts = [own, *(own.of_shard(number, RedisClock()) for number in range(MOST_SHARDS))]
        bells.wait(parts, 0.01)

        def blocked() -> int:
            bells.wait(parts, 0.01)
            return sum(node.info("clients")["blocked_clients"] for node in nodes(client))

        eventually(lambda: blocked() == len(parts))
