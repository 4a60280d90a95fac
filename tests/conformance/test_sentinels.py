"""A client of a Redis behind real Sentinels follows the primary, with all its connections."""

import dataclasses
import signal
import threading
from collections.abc import Iterator

import pytest
import redis
from msgspec.structs import replace

from broker.addresses import Address
from broker.connection import check_server, connect, translated
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import Webhook
from broker.producer import Producer, RequestName
from broker.replies import Replies
from broker.sentinel import LOOK_S, PrimaryFinder, SentinelPool
from tests.support.fakes import LIMITS, MODEL, job
from tests.support.redis_server import as_user
from tests.support.sentinels import NAME, SentinelService, running_sentinels
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HUSH = "hush"


@pytest.fixture(scope="module")
def whole() -> Iterator[SentinelService]:
    """A primary and a replica that no test changes."""
    with running_sentinels() as service:
        yield service


@pytest.fixture
def service() -> Iterator[SentinelService]:
    """The same of this test's own: the Sentinels look at a new replica every 10 s only."""
    with running_sentinels() as service:
        yield service


@pytest.fixture
def client(service: SentinelService) -> Iterator[redis.Redis]:
    with connect(service.admin_url, timeout_s=2) as client:
        yield client


def _port(client: redis.Redis) -> int:
    return int(client.config_get("port")["port"] or 0)


def _writes(client: redis.Redis, port: int) -> bool:
    """Whether a write is taken, by the server at that port."""
    try:
        with translated("take a write"):
            client.set("written", 1)
            return _port(client) == port
    except BrokerUnavailable as error:
        if error.is_refusal:
            raise
        return False


class Listener(threading.Thread):
    """Waits in a thread for a list, as an idle worker does, and keeps what ended that."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.error: redis.RedisError | None = None
        self.start()

    def run(self) -> None:
        """Wait for ten seconds at most."""
        try:
            self._client.blpop(["nothing"], timeout=10)
        except redis.RedisError as error:
            self.error = error


def test_it_is_with_the_primary_and_is_as_it_should_be(service: SentinelService, client: redis.Redis) -> None:
    assert client.info("replication")["role"] == "master"
    assert check_server(client) == []
    assert connect(as_user(service.url, "web"), timeout_s=2).ping()


def test_a_killed_primary_is_followed_by_its_replica(service: SentinelService, client: redis.Redis) -> None:
    client.set("kept", "yes")
    killed = service.primary()
    eventually(lambda: killed.info()["slave0"]["lag"] <= 1)
    killed.stop()
    assert not _writes(client, 0)
    service.await_other_than(killed)
    eventually(lambda: _writes(client, service.primary().port))
    assert client.get("kept") == b"yes"


def test_a_demoted_primary_keeps_neither_writers_nor_waiters_nor_subscribers(
    service: SentinelService, client: redis.Redis
) -> None:
    patient = connect(service.admin_url, timeout_s=20)
    waiting = Listener(patient)
    replies = Replies(client, Keys("bw:"), "frontend")
    replies.start()
    assert replies.is_subscribed(timeout_s=10)
    channel = Keys("bw:").results_channel("frontend")
    eventually(lambda: client.pubsub_numsub(channel)[0][1] == 1)
    before = service.primary()
    service.fail_over()
    after = service.primary()
    eventually(lambda: _writes(client, after.port))
    waiting.join(timeout=10)
    assert isinstance(waiting.error, redis.ConnectionError)
    with after.client() as new:
        eventually(lambda: new.pubsub_numsub(channel)[0][1] == 1)
    with before.client() as old:
        eventually(lambda: old.pubsub_numsub(channel)[0][1] == 0)
    replies.stop()


def test_a_primary_that_is_cut_off_but_lives_is_left(service: SentinelService, client: redis.Redis) -> None:
    cut = service.primary()
    assert _writes(client, cut.port)
    patient = connect(service.admin_url, timeout_s=20)
    waiting = Listener(patient)
    with cut.client() as old:
        eventually(lambda: any(each["cmd"] == "blpop" for each in old.client_list()))
    service.cut_off(cut)
    service.await_other_than(cut)
    after = service.primary()
    with cut.client() as old:
        assert old.info("replication")["role"] == "master"  # it still takes writes
    # At the first look after LOOK_S; nothing has failed meanwhile.
    eventually(lambda: _writes(client, after.port), within_s=LOOK_S + 1)
    waiting.join(timeout=5)
    assert isinstance(waiting.error, redis.ConnectionError)
    service.rejoin(cut)
    assert _writes(client, after.port)


def test_a_write_at_a_replica_is_an_outage_and_ends_that_connection(
    whole: SentinelService, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica = whole.nodes

    misled = PrimaryFinder(NAME, {})
    misled.known = Address("127.0.0.1", replica.port)
    monkeypatch.setattr(PrimaryFinder, "get_master_address", lambda finder: finder.known)
    monkeypatch.setattr(PrimaryFinder, "look", lambda finder: finder.known)
    options = {"username": "tests", "password": "tests", "max_connections": 2, "timeout": 2, "protocol": 2}
    pool = SentinelPool(misled, {**options, "connection_class": _connection_class()})
    client = redis.Redis.from_pool(pool)
    script = client.register_script("return redis.call('SET', KEYS[1], 'x')")
    for write in (
        lambda: client.set("a", 1),
        lambda: script(keys=["a"]),
        lambda: _transaction(client),
    ):
        with pytest.raises(BrokerUnavailable, match="is a replica now") as raised, translated("write"):
            write()
        assert not raised.value.is_refusal
    misled.known = Address("127.0.0.1", primary.port)
    assert client.set("a", 1)
    assert _port(client) == primary.port


def _transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.set("a", 1)
        pipe.execute()


def _connection_class() -> type[object]:
    pool = connect("sentinel://h/name", timeout_s=1).connection_pool
    return type(pool.make_connection())


def test_sentinels_with_a_password_are_asked_with_it() -> None:
    with running_sentinels(password=HUSH) as service:
        with connect(service.admin_url, timeout_s=2) as client:
            assert client.ping()
        wrong = service.admin_url.replace(HUSH, "wrong one")
        with (
            connect(wrong, timeout_s=2) as client,
            pytest.raises(BrokerUnavailable, match=r"wants another \?sentinel_username=") as raised,
            translated("do it"),
        ):
            client.ping()
        assert "wrong one" not in raised.value.detail
        without = service.admin_url.partition("?")[0]
        with (
            connect(without, timeout_s=2) as client,
            pytest.raises(BrokerUnavailable, match=r"wants another \?sentinel_username="),
            translated("do it"),
        ):
            client.ping()


def test_another_name_is_said(whole: SentinelService) -> None:
    with (
        connect(whole.admin_url.replace(NAME, "other"), timeout_s=2) as client,
        pytest.raises(BrokerUnavailable, match="know no primary 'other'"),
        translated("do it"),
    ):
        client.ping()


def test_a_polled_job_is_accepted_once_its_replicas_have_it(service: SentinelService, keys: Keys) -> None:
    limits = dataclasses.replace(LIMITS, replicas=1)
    of_model = keys.of(MODEL)
    replica = service.nodes[1]
    with (
        connect(as_user(service.url, "web"), timeout_s=2) as web,
        connect(service.admin_url, timeout_s=2) as client,
    ):
        producer = Producer(web, keys, limits)
        polled = replace(job(), polled=True, reply_to=None)
        producer.enqueue(MODEL, polled, RequestName("first", "digest"))
        with replica.client() as copy:
            assert copy.exists(of_model.result(polled.id))
            assert copy.llen(of_model.polled) == 1
        assert producer.begin(MODEL, "a-pipeline", time_s=10) == "a-pipeline"
        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        lost = replace(polled, id=job().id)
        with pytest.raises(
            BrokerUnavailable, match=r"0 of 1 \(REDIS_REPLICAS\) had it within 500 ms"
        ) as raised:
            producer.enqueue(MODEL, lost, RequestName("second", "digest"), Webhook("http://h", 0, 9, "r"))
        assert raised.value.is_refusal
        with pytest.raises(BrokerUnavailable, match="REDIS_REPLICAS"):
            producer.begin(MODEL, "another", time_s=10)
        # Cancelled, so the client may come back under the same name; and nobody is told of its end.
        assert not client.exists(of_model.result(lost.id), of_model.result("another"))
        assert producer.named(MODEL, RequestName("second", "other digest")) is None
        assert not client.zcard(of_model.webhooks)
        # A job that is there already is told of under the same condition.
        with pytest.raises(BrokerUnavailable, match="REDIS_REPLICAS"):
            producer.enqueue(MODEL, replace(polled, id=job().id), RequestName("first", "digest"))
        assert client.exists(of_model.result(polled.id))
        # A job whose client waits is put back by its web process: it needs none.
        producer.enqueue(MODEL, job())
        replica.process.send_signal(signal.SIGCONT)
