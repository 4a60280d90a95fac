"""Redis behind Sentinels: its URL, whom several Sentinels make the primary, and what is said of it."""

import socket

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.addresses import Address
from broker.connection import CONNECTIONS, connect, translated
from broker.errors import BrokerUnavailable
from broker.sentinel import LOOK_S, NoPrimary, PrimaryFinder, SentinelPool, _Connection
from tests.support.sentinels import NAME
from tests.support.stack import free_port

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))
OLD, NEW = Address("10.0.0.7", 6379), Address("10.0.0.8", 6379)


class Clock:
    """Monotonic time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """A Sentinel that says what it is told to: a primary, its epoch and whether it is down; or an error."""

    def __init__(self, primary: Address | None = OLD, epoch: int = 1, *, down: bool = False) -> None:
        self.primary, self.epoch, self.down = primary, epoch, down
        self.state_of = primary
        """Whose state it tells: while it promotes another, still that of the old primary."""
        self.error: redis.RedisError | None = None
        self.asked = 0

    def pipeline(self, *, transaction: bool) -> "Peer":
        assert not transaction
        return self

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute_command(self, *_: object) -> None: ...

    def sentinel_master(self, *_: object, **__: object) -> None: ...

    def execute(self, *, raise_on_error: bool) -> list[object]:
        assert not raise_on_error
        self.asked += 1
        if self.error is not None:
            raise self.error
        if self.primary is None or self.state_of is None:
            return [None, redis.ResponseError("No such master with that name")]
        host, port = self.state_of
        state = {
            "ip": host,
            "port": port,
            "config-epoch": self.epoch,
            "is_sdown": self.down,
            "is_odown": False,
        }
        return [[self.primary.host.encode(), b"%d" % self.primary.port], state]


def finder(*peers: Peer, clock: Clock | None = None) -> PrimaryFinder:
    sentinels = dict(zip((A, B, C), peers, strict=False))
    return PrimaryFinder(NAME, sentinels, monotonic=clock or Clock())  # type: ignore[arg-type]


def test_the_latest_fail_over_counts_whoever_tells_of_it() -> None:
    assert finder(Peer(OLD, 1), Peer(NEW, 2), Peer(OLD, 1)).get_master_address() == NEW


def test_a_primary_that_is_being_promoted_counts_though_the_old_one_is_seen_down() -> None:
    leader = Peer(NEW, 2, down=True)
    leader.state_of = OLD
    assert finder(leader, Peer(OLD, 1, down=True)).get_master_address() == NEW


def test_one_sentinel_that_sees_it_down_is_not_believed_against_another() -> None:
    assert finder(Peer(OLD, 1, down=True), Peer(OLD, 1)).get_master_address() == OLD


def test_a_primary_that_all_see_down_is_not_connected_to() -> None:
    with pytest.raises(
        NoPrimary, match=r"^the Sentinels see the primary 10\.0\.0\.7:6379 down, and have not"
    ):
        finder(Peer(down=True), Peer(down=True)).get_master_address()


def test_a_name_that_they_do_not_know_is_said() -> None:
    with pytest.raises(NoPrimary, match=r"^the Sentinels of REDIS_URL know no primary 'shades-redis'$"):
        finder(Peer(None), Peer(None)).get_master_address()


def test_one_that_does_not_answer_is_left_out_for_a_while() -> None:
    clock, silent, other = Clock(), Peer(), Peer()
    silent.error = redis.TimeoutError("slow")
    asked = finder(silent, other, clock=clock)
    for _ in range(5):
        assert asked.get_master_address() == OLD
        clock.now += LOOK_S
    assert (silent.asked, other.asked) == (1, 5)
    clock.now += 10
    silent.error = None
    asked.look()
    assert silent.asked == 2


def test_while_none_answers_the_last_primary_stays_the_one(caplog: pytest.LogCaptureFixture) -> None:
    clock, peer = Clock(), Peer()
    asked = finder(peer, clock=clock)
    assert asked.get_master_address() == OLD
    peer.error = redis.ConnectionError("Connection refused.")
    for _ in range(3):
        clock.now += LOOK_S
        assert asked.look() == OLD
        assert asked.get_master_address() == OLD
    assert [record.message for record in caplog.records] == [
        "No Sentinel of REDIS_URL can be asked (10.0.0.1:1: Connection refused): staying with 10.0.0.7:6379."
    ]
    peer.error, peer.primary, peer.state_of = None, NEW, NEW
    clock.now += LOOK_S
    assert asked.look() == NEW
    assert caplog.records[-1].message == f"The primary of {NAME} is {NEW} now; it was {OLD}."


def test_connections_that_are_made_together_share_an_answer() -> None:
    clock, peer = Clock(), Peer()
    asked = finder(peer, clock=clock)
    for _ in range(100):
        asked.get_master_address()
        asked.look()
    assert peer.asked == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (redis.ConnectionError("Error 111 connecting to x. Connection refused."), "Connection refused"),
        (
            redis.AuthenticationError("WRONGPASS"),
            r"it wants another \?sentinel_username= or \?sentinel_password=",
        ),
    ],
)
def test_why_none_can_be_asked_is_said(error: redis.RedisError, words: str) -> None:
    peer = Peer()
    peer.error = error
    with pytest.raises(
        NoPrimary, match=rf"^no Sentinel of REDIS_URL can be asked \(10\.0\.0\.1:1: .*{words}.*\)$"
    ):
        finder(peer).get_master_address()


def test_sentinels_that_are_away_are_an_outage_in_words() -> None:
    client = connect(f"sentinel://127.0.0.1:{free_port()}/x", timeout_s=1)
    with (
        pytest.raises(
            BrokerUnavailable, match=r"^Redis can't do it: no Sentinel of REDIS_URL can be asked"
        ) as raised,
        translated("do it"),
    ):
        client.ping()
    assert not raised.value.is_refusal


def test_a_connection_to_another_server_is_not_given_out_and_not_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        first, second = (Address(*each.getsockname()) for each in (one, other))
        its = finder(Peer(first))
        options = {"max_connections": 1, "timeout": 0.1, "protocol": 2, "driver_info": None}
        pool = SentinelPool(its, {**options, "retry": Retry(NoBackoff(), 0), "connection_class": _Connection})
        for primary in (first, second):
            its.known = primary  # as another thread hears of it
            connection = pool.get_connection()
            assert connection.address == primary
            pool.release(connection)  # type: ignore[no-untyped-call]
        its.known = Address("127.0.0.1", free_port())
        for _ in range(2):
            with pytest.raises(redis.ConnectionError, match="refused"):
                pool.get_connection()
        pool.disconnect()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sentinel://h:1", "and NAME the primary's"),
        ("sentinel:///name", "and NAME the primary's"),
        ("sentinel://h:1/name/0/1", "and NAME the primary's"),
        ("sentinel://h:1,/name", "'' is not the HOST:PORT"),
        ("sentinel://h:0/name", "'h:0' is not the HOST:PORT"),
        ("sentinel://h:65536/name", "'h:65536' is not the HOST:PORT"),
        ("sentinel://h:port/name", "'h:port' is not the HOST:PORT"),
        ("sentinel://h:1/name?sentinel_pasword=x", "'sentinel_pasword' of the URL is not known"),
    ],
)
def test_a_url_that_is_wrong_is_said_at_once(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        connect(url, timeout_s=1)


def test_the_url_says_whom_to_ask_and_what_to_tell_each() -> None:
    url = "sentinel://web:se%2Fcret@h,[::1]:1/na%20me/3?sentinel_username=s&sentinel_password=hidden&socket_keepalive=yes"
    client = connect(url, timeout_s=2)
    pool = client.connection_pool
    assert isinstance(pool, SentinelPool)
    assert pool.max_connections == CONNECTIONS
    asked = pool.connection_kwargs["connection_pool"]
    assert asked.service_name == "na me"
    given = {
        name: pool.connection_kwargs[name] for name in ("username", "password", "db", "socket_keepalive")
    }
    assert given == {"username": "web", "password": "se/cret", "db": 3, "socket_keepalive": True}
    assert pool.connection_kwargs["retry"].get_retries() == 0
    assert list(asked._sentinels) == [Address("h", 26379), Address("::1", 1)]
    for sentinel in asked._sentinels.values():
        credentials = sentinel.connection_pool.connection_kwargs
        assert (credentials["username"], credentials["password"]) == ("s", "hidden")
    assert not pool.connection_kwargs.keys() & {"sentinel_username", "sentinel_password", "host"}
    assert "hidden" not in repr(client)
    assert "cret" not in repr(client)


def test_tls_is_for_the_sentinels_and_for_redis() -> None:
    client = connect("sentinels://h/name?ssl_ca_certs=/ca.crt&ssl_check_hostname=true", timeout_s=2)
    pool = client.connection_pool
    assert isinstance(pool.make_connection(), redis.SSLConnection)
    (sentinel,) = pool.connection_kwargs["connection_pool"]._sentinels.values()
    assert sentinel.connection_pool.connection_class is redis.SSLConnection
    for options in (pool.connection_kwargs, sentinel.connection_pool.connection_kwargs):
        assert options["ssl_ca_certs"] == "/ca.crt"
        assert options["ssl_check_hostname"]
