"""A Redis Cluster as one client, on a real one: where commands go, and what follows a slot that moves."""

import itertools
import threading
import time
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot
from redis.exceptions import MovedError, TryAgainError

from broker import cluster
from broker.addresses import Address
from broker.clock import clock_of
from broker.cluster import ClusterClient, slot_of
from broker.connection import check_server, connect, translated
from broker.errors import BrokerUnavailable
from broker.job_ids import CHECK_S, JobIds
from broker.keys import Keys
from tests.support.fakes import FakeClock
from tests.support.redis_cluster import ClusterNode, RedisCluster, migrate, running_cluster
from tests.support.redis_server import RedisServer, running_redis
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KEYS = [f"{{{name}}}:key" for name in "abcdefgh"]
"""In slots of several nodes."""

ADD = "redis.call('INCR', KEYS[1]); return redis.call('GET', KEYS[2])"


@pytest.fixture(scope="module")
def _nodes() -> Iterator[RedisCluster]:
    with running_cluster() as made:
        yield made


@pytest.fixture
def nodes(_nodes: RedisCluster) -> Iterator[RedisCluster]:
    """A cluster that is emptied after each test."""
    yield _nodes
    _nodes.start()
    with connect(_nodes.url, timeout_s=5) as client:
        client.flushall()


@pytest.fixture
def client(nodes: RedisCluster) -> Iterator[redis.Redis]:
    """A client that has read the map."""
    with connect(nodes.url, timeout_s=1) as made:
        made.ping()
        yield made


def test_nothing_is_sent_before_the_first_command() -> None:
    assert connect("cluster://127.0.0.1:1,[::1]:2", timeout_s=1) is not None


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), "a"),
        (("EVALSHA", "digest", 2, "{a}:x", "{a}:y", "b"), "a"),
        (("BLPOP", b"{a}:bell", 1), "a"),
        (("OBJECT", "ENCODING", "a"), "a"),
        (("PING",), None),
        (("PUBLISH", "channel", "text"), None),
        (("KEYS", "*"), None),
    ],
)
def test_a_command_belongs_to_the_slot_of_its_first_key(command: tuple[str, ...], key: str | None) -> None:
    assert slot_of(command) == (None if key is None else key_slot(key.encode()))


def test_a_command_that_no_node_is_named_for_is_a_bug(client: redis.Redis) -> None:
    with pytest.raises(ValueError, match="name the node"):
        client.lastsave()


def test_each_node_s_durability_is_looked_at(client: redis.Redis) -> None:
    last = cluster.nodes(client)[-1]
    assert check_server(client) == []
    last.config_set("appendonly", "no")
    last.config_set("maxmemory-policy", "allkeys-lru")
    try:
        warnings = check_server(client)
    finally:
        last.config_set("appendonly", "yes")
        last.config_set("maxmemory-policy", "noeviction")
    assert [warning.split()[0] for warning in warnings] == ["appendonly", "maxmemory-policy"]


def test_each_command_reaches_the_node_of_its_key(nodes: RedisCluster, client: redis.Redis) -> None:
    for key in KEYS:
        client.set(key, key)
    assert [client.get(key) for key in KEYS] == [key.encode() for key in KEYS]
    assert len({nodes.owner_of(key).port for key in KEYS}) == 3
    assert sorted(client.keys("*")) == [key.encode() for key in KEYS]
    assert client.dbsize() == len(KEYS)
    assert len(cluster.nodes(client)) == 3


def test_a_pipeline_has_replies_in_their_order_from_all_nodes(client: redis.Redis) -> None:
    client.set(KEYS[3], "text")
    with client.pipeline(transaction=False) as pipe:
        for number, key in enumerate(KEYS):
            pipe.rpush(key, number)
        pipe.get(KEYS[3])
        replies = pipe.execute(raise_on_error=False)
    assert [reply for reply in replies if not isinstance(reply, Exception)] == [1] * 7 + [b"text"]
    assert isinstance(replies[3], redis.ResponseError)
    with client.pipeline(transaction=False) as pipe:
        pipe.rpush(KEYS[3], "x")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            pipe.execute()


def test_commands_follow_a_slot_that_has_moved(nodes: RedisCluster, client: redis.Redis) -> None:
    key, other = "{a}:key", "{a}:other"
    script = client.register_script(ADD)
    client.set(other, "kept")
    for number in range(1, 4):
        nodes.move(key)
        assert script(keys=[key, other]) == b"kept"  # the new node has never seen that script
        nodes.move(key)
        with client.pipeline(transaction=False) as pipe:
            pipe.get(key)
            pipe.get(other)
            cluster.ask_time(pipe, key)
            value, kept, now = pipe.execute()
        assert (int(value), kept) == (number, b"kept")
        assert abs(cluster.time_of(now) - time.time()) < 5
        nodes.move(key)
        with client.pipeline() as pipe:
            pipe.append(other, "")
            pipe.get(other)
            assert pipe.execute() == [4, b"kept"]


def test_a_watched_key_whose_slot_moves_begins_again(nodes: RedisCluster, client: redis.Redis) -> None:
    key = "{a}:key"
    client.set(key, 1)
    nodes.move(key)
    tries = 0
    while True:
        tries += 1
        try:
            with client.pipeline() as pipe:
                pipe.watch(key)  # type: ignore[no-untyped-call]
                value = int(pipe.get(key) or 0)
                if tries == 1:
                    nodes.move(key)
                pipe.multi()
                pipe.set(key, value + 1)
                pipe.execute()
                break
        except redis.WatchError:
            continue
    assert (client.get(key), tries) == (b"2", 2)
    with client.pipeline() as pipe:
        pipe.watch(key)  # type: ignore[no-untyped-call]
        client.set(key, 7)
        pipe.multi()
        pipe.set(key, 8)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get(key) == b"7"


def _half_moved(nodes: RedisCluster, there: str) -> tuple[int, ClusterNode, ClusterNode]:
    """Begin to move the slot of a key: it is on the new node already, and what else is in the slot is not."""
    slot = key_slot(there.encode())
    source = nodes.owner(slot)
    target = next(node for node in nodes.primaries() if node is not source)
    nodes.open_move(slot, source, target)
    migrate(source, target, [there])
    return slot, source, target


def test_while_a_slot_moves_one_key_is_found_and_two_wait_for_the_end(
    nodes: RedisCluster, client: redis.Redis
) -> None:
    here, there = "{a}:here", "{a}:there"
    client.set(here, 1)
    client.set(there, 2)
    move = _half_moved(nodes, there)
    assert (client.get(here), client.get(there)) == (b"1", b"2")
    with client.pipeline() as pipe:  # all of it on the new node, by one ASKING
        pipe.incr(there)
        pipe.get(there)
        assert pipe.execute() == [3, b"3"]

    began = time.monotonic()

    def add() -> list[int]:
        with translated("add"), client.pipeline() as pipe:
            pipe.incr(here)
            pipe.incr(there)
            return list(pipe.execute())

    with pytest.raises(BrokerUnavailable, match="is moving to another node; try again") as refused:
        add()
    assert not refused.value.is_refusal
    assert time.monotonic() - began < 5
    assert (client.get(here), client.get(there)) == (b"1", b"3")

    def finish() -> None:
        time.sleep(cluster.PATIENCE_S / 5)
        migrate(move[1], move[2], [here])
        nodes.close_move(*move)

    thread = threading.Thread(target=finish)
    thread.start()
    assert add() == [2, 4]
    thread.join()


def test_a_watched_transaction_waits_for_a_torn_slot_no_longer_than_others(
    nodes: RedisCluster, client: redis.Redis
) -> None:
    here, there = "{a}:here", "{a}:there"
    client.set(here, 1)
    client.set(there, 2)
    move = _half_moved(nodes, there)

    def add() -> None:
        while True:
            try:
                with client.pipeline() as pipe:
                    pipe.watch(there)  # type: ignore[no-untyped-call]
                    pipe.multi()
                    pipe.incr(here)
                    pipe.incr(there)
                    pipe.execute()
                    return
            except redis.WatchError:
                continue

    with pytest.raises(TryAgainError):
        add()
    migrate(move[1], move[2], [here])
    nodes.close_move(*move)
    add()
    assert (client.get(here), client.get(there)) == (b"2", b"3")


def test_a_dead_node_costs_its_own_keys_alone(nodes: RedisCluster, client: redis.Redis) -> None:
    dead = nodes.owner_of(KEYS[0])
    gone = [key for key in KEYS if nodes.owner_of(key) is dead]
    for key in KEYS:
        client.set(key, "x")
    dead.stop(kill=True)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="no connection") as refused, translated("tell"):
        client.get(KEYS[0])
    assert time.monotonic() - began < 5
    assert not refused.value.is_refusal
    assert [client.get(key) for key in KEYS if key not in gone] == [b"x"] * (len(KEYS) - len(gone))
    with client.pipeline(transaction=False) as pipe:
        for key in KEYS:
            pipe.get(key)
        replies = pipe.execute(raise_on_error=False)
    assert [key for key, reply in zip(KEYS, replies, strict=True) if reply != b"x"] == gone
    dead.start()
    eventually(lambda: _answers(client, KEYS[0]), within_s=20)


def test_ids_are_made_while_the_node_of_their_secret_is_away(nodes: RedisCluster) -> None:
    """A model whose node lives is served."""
    keys, clock = Keys("bw:"), FakeClock()
    with connect(nodes.url, timeout_s=1) as client:
        ids = JobIds(client, keys, clock_of(client), monotonic=clock)
        before = ids.make("tiny", is_polled=True)
        nodes.owner_of(keys.id_secret).stop(kill=True)
        clock.now += CHECK_S
        made = ids.make("tiny", is_polled=True)
        assert ids.made_at(before, "tiny")
        nodes.start()
        clock.now += CHECK_S
        assert ids.made_at(made, "tiny")
        assert JobIds(client, keys, clock_of(client)).made_at(made, "tiny")


def _answers(client: redis.Redis, key: str) -> bool:
    try:
        return client.get(key) == b"x"
    except redis.RedisError:
        return False


def test_a_command_that_was_lost_is_not_sent_again(client: redis.Redis) -> None:
    assert isinstance(client, ClusterClient)
    sent = 0

    def lose(_node: redis.Redis, _asking: bool) -> None:
        nonlocal sent
        sent += 1
        raise redis.TimeoutError

    with pytest.raises(redis.TimeoutError):
        client.follow(0, lose)
    assert sent == 1


def test_nodes_that_do_not_agree_who_has_a_slot_are_not_followed_for_ever(
    nodes: RedisCluster, client: redis.Redis
) -> None:
    assert isinstance(client, ClusterClient)
    sent = itertools.count()

    def send(_node: redis.Redis, _asking: bool) -> None:
        number = next(sent)
        if number == 100:
            pytest.fail("it goes on and on")
        raise MovedError(f"0 127.0.0.1:{nodes.nodes[number % 2].port}")

    with pytest.raises(TryAgainError, match="do not agree"):
        client.follow(0, send)


def test_a_node_that_names_a_port_alone_means_its_own_host(nodes: RedisCluster, client: redis.Redis) -> None:
    assert isinstance(client, ClusterClient)
    to, sent = nodes.nodes[1].port, itertools.count()

    def send(node: redis.Redis, _asking: bool) -> redis.Redis:
        if next(sent) == 0:
            raise MovedError(f"0 :{to}")
        return node

    place = client.follow(0, send).connection_pool.connection_kwargs
    assert (place["host"], place["port"]) == ("127.0.0.1", to)


def test_one_node_of_the_url_that_answers_is_enough(nodes: RedisCluster) -> None:
    for _ in range(8):  # they are asked in any order
        with connect(f"cluster://127.0.0.1:1,127.0.0.1:{nodes.nodes[0].port}", timeout_s=1) as client:
            assert client.ping()


def test_a_cluster_of_which_no_node_answers_is_said_so() -> None:
    client = connect("cluster://127.0.0.1:1,127.0.0.1:2", timeout_s=1)
    with pytest.raises(BrokerUnavailable, match="no connection") as refused, translated("tell"):
        client.get("a")
    assert not refused.value.is_refusal


def test_the_wrong_scheme_is_said_so(nodes: RedisCluster) -> None:
    keys = {nodes.owner_of(key).port: key for key in KEYS}
    node, other = nodes.nodes[0], keys[nodes.nodes[1].port]
    with connect(node.url, timeout_s=1) as client:
        assert "REDIS_URL must begin with cluster://" in _refusal(client, other)
    with running_redis() as server, _cluster_of(server) as client:
        assert "REDIS_URL must begin with redis://" in _refusal(client, "a")


def _refusal(client: redis.Redis, key: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused, translated("tell"):
        client.get(key)
    return str(refused.value)


def _cluster_of(server: RedisServer) -> redis.Redis:
    first = {Address("localhost", 0): connect(server.url, timeout_s=1)}
    return ClusterClient(first, lambda _: pytest.fail("asked"))


def test_a_new_node_of_the_cluster_is_found(nodes: RedisCluster) -> None:
    port = nodes.nodes[0].port
    with connect(f"cluster://127.0.0.1:{port}", timeout_s=1) as client:
        for key in KEYS:
            client.set(key, "x")
        assert client.dbsize() == len(KEYS)


@pytest.mark.parametrize("url", ["cluster://", "cluster://h:1/3", "cluster://h:x", "cluster://h:1?ssl=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|database 0|Port|parameter"):
        connect(url, timeout_s=1)
