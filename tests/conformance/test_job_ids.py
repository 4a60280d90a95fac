"""Ids of jobs on a real Redis: who knows them as issued, and what becomes of the secret that seals them."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker.clock import RedisClock
from broker.cluster import is_cluster
from broker.connection import connect
from broker.errors import BrokerUnavailable
from broker.job_ids import CHECK_S, JobIds
from broker.keys import SHARD_MASK, Keys
from tests.support.fakes import MODEL, FakeClock
from tests.support.redis_server import RedisServer, client_of


def _ids(client: redis.Redis, keys: Keys, clock: FakeClock | None = None) -> JobIds:
    return JobIds(client_of(client, "web"), keys, RedisClock(), monotonic=clock or time.monotonic)


def test_an_id_is_a_uuid_that_says_when_it_was_made(client: redis.Redis, keys: Keys) -> None:
    ids, before = _ids(client, keys), int(time.time())
    made = ids.make(MODEL, owner="ann", is_polled=True)
    value = uuid.UUID(made)
    assert (str(value), value.version, value.variant) == (made, 8, uuid.RFC_4122)
    at = ids.made_at(made, MODEL, owner="ann")
    assert at is not None
    assert before <= at <= time.time()


def test_it_is_known_to_every_process_for_its_model_and_owner_alone(client: redis.Redis, keys: Keys) -> None:
    made, other = _ids(client, keys).make(MODEL, owner="ann", is_polled=True), _ids(client, keys)
    assert other.made_at(made, MODEL, owner="ann") is not None
    assert other.made_at(made, MODEL, owner="bob") is None
    assert other.made_at(made, MODEL) is None
    assert other.made_at(made, "other", owner="ann") is None
    # Where a name ends is sealed, too.
    assert other.made_at(made, f"{MODEL}a", owner="nn") is None


def test_no_bit_of_it_can_be_changed(client: redis.Redis, keys: Keys) -> None:
    ids = _ids(client, keys)
    made = uuid.UUID(ids.make(MODEL, is_polled=True)).int
    changed = [str(uuid.UUID(int=made ^ 1 << bit)) for bit in range(128)]
    assert [each for each in changed if ids.made_at(each, MODEL) is not None] == []


@pytest.mark.parametrize("job_id", ["0190c0de-4c68-47e9-877e-25cf1868a37d", "", "x", "0" * 36, "é" * 36])
def test_what_is_invented_is_not_known(client: redis.Redis, keys: Keys, job_id: str) -> None:
    assert _ids(client, keys).made_at(job_id, MODEL) is None


def test_that_of_a_job_whose_client_waits_is_not_known_either(client: redis.Redis, keys: Keys) -> None:
    ids = _ids(client, keys)
    assert ids.made_at(ids.make(MODEL, is_polled=False), MODEL) is None


def test_its_last_48_bits_are_random_and_ids_differ(client: redis.Redis, keys: Keys) -> None:
    ids = _ids(client, keys)
    made = [uuid.UUID(ids.make(MODEL, is_polled=True)) for _ in range(2000)]
    nodes = [each.node for each in made]
    assert len(set(nodes)) == len(set(made)) == 2000
    for bit in range(48):
        ones = sum(node >> bit & 1 for node in nodes)
        assert 800 < ones < 1200  # nine standard deviations
    # Nothing of it is the same in all, but the version, the variant, the shard and the time.
    same = ~0
    for each in made:
        same &= ~(each.int ^ made[0].int)
    assert same & (1 << 96) - 1 == 0xF << 76 | 0b11 << 62 | SHARD_MASK


def test_all_processes_agree_on_one_secret_that_stays(client: redis.Redis, keys: Keys) -> None:
    processes = [_ids(client, keys) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda ids: ids.make(MODEL, is_polled=True), processes))
    assert all(ids.made_at(each, MODEL) for ids in processes for each in made)
    assert client.ttl(keys.id_secret) == -1


def test_of_two_secrets_at_one_moment_the_first_stays(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, other = client_of(client, "web"), b"s" * 32
    get, seen = web.get, []

    def get_late(key: str) -> object:
        seen.append(get(key))
        if len(seen) == 1:
            client.set(keys.id_secret, other)  # another process, just after this one saw none
        return seen[-1]

    ids = _ids(client, keys)
    monkeypatch.setattr(web, "get", get_late)
    made = ids.make(MODEL, is_polled=True)
    monkeypatch.undo()
    assert (seen[0], client.get(keys.id_secret)) == (None, other)
    assert _ids(client, keys).made_at(made, MODEL)


def test_threads_that_begin_together_wait_for_the_secret(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, asked = client_of(client, "web"), threading.Event()
    get = web.get

    def get_slowly(key: str) -> object:
        asked.set()
        time.sleep(0.1)  # the second thread comes meanwhile
        return get(key)

    monkeypatch.setattr(web, "get", get_slowly)
    ids = _ids(client, keys)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ids.make, MODEL, is_polled=True)
        assert asked.wait(5)
        second = ids.make(MODEL, is_polled=True)
        assert all(ids.made_at(each, MODEL) for each in (first.result(), second))


def test_a_secret_that_redis_lost_is_put_back_and_said(
    client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    ids = _ids(client, keys, clock)
    made = ids.make(MODEL, is_polled=True)
    assert caplog.messages == []
    client.flushall()
    assert ids.made_at(made, MODEL)  # remembered
    clock.now += CHECK_S
    ids.make(MODEL, is_polled=True)
    (line,) = caplog.messages
    assert line.startswith("Redis has lost what it held for this service")
    assert _ids(client, keys).made_at(made, MODEL)


def test_after_another_secret_was_put_there_ids_of_before_are_known(client: redis.Redis, keys: Keys) -> None:
    clock = FakeClock()
    ids = _ids(client, keys, clock)
    before = ids.make(MODEL, is_polled=True)
    client.flushall()
    newcomer = _ids(client, keys)
    of_newcomer = newcomer.make(MODEL, is_polled=True)
    clock.now += CHECK_S
    assert newcomer.made_at(ids.make(MODEL, is_polled=True), MODEL)
    assert ids.made_at(before, MODEL)
    assert ids.made_at(of_newcomer, MODEL)


@pytest.mark.parametrize("trouble", ["full", "a list", "short"])
def test_ids_are_made_where_the_secret_can_not_be_kept(
    own_redis: RedisServer, keys: Keys, trouble: str
) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        if trouble == "full":
            client.config_set("maxmemory", "1")
        elif trouble == "a list":
            client.rpush(keys.id_secret, "x")
        else:
            client.set(keys.id_secret, "x")
        ids = _ids(client, keys)
        assert ids.made_at(ids.make(MODEL, is_polled=True), MODEL)


def test_a_full_redis_gets_the_secret_once_there_is_room(own_redis: RedisServer, keys: Keys) -> None:
    clock = FakeClock()
    with connect(own_redis.url, timeout_s=5) as client:
        client.config_set("maxmemory", "1")
        ids = _ids(client, keys, clock)
        made = ids.make(MODEL, is_polled=True)
        client.config_set("maxmemory", "0")
        clock.now += CHECK_S
        ids.make(MODEL, is_polled=True)
        assert _ids(client, keys).made_at(made, MODEL)


def test_without_redis_no_id_is_made_in_vain(own_redis: RedisServer, keys: Keys) -> None:
    client = connect(own_redis.url, timeout_s=0.9)
    clock = FakeClock()
    ids = JobIds(client, keys, RedisClock(), monotonic=clock)
    ids.make(MODEL, is_polled=True)
    own_redis.stop(kill=True)
    ids.make(MODEL, is_polled=True)  # the secret was looked up a moment ago
    clock.now += CHECK_S
    if is_cluster(client):  # other nodes may be well: the job itself is refused where its own is away
        assert ids.made_at(ids.make(MODEL, is_polled=True), MODEL)
    else:
        with pytest.raises(BrokerUnavailable, match="no connection"):
            ids.make(MODEL, is_polled=True)
    client.close()


def test_a_process_that_begins_while_redis_is_away_says_so_each_time(
    own_redis: RedisServer, keys: Keys
) -> None:
    own_redis.stop(kill=True)
    with connect(own_redis.url, timeout_s=0.9) as client:
        ids = JobIds(client, keys, RedisClock(), monotonic=FakeClock())
        if not is_cluster(client):
            for _ in range(2):
                with pytest.raises(BrokerUnavailable, match="no connection"):
                    ids.make(MODEL, is_polled=True)
        own_redis.start()
        assert ids.made_at(ids.make(MODEL, is_polled=True), MODEL)
