"""What is said of a Redis that is away, too old or set otherwise; and what is never said."""

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker.connection import CONNECTIONS, check_server, connect, translated
from broker.errors import BrokerUnavailable


@pytest.mark.parametrize(
    ("error", "words", "is_refusal"),
    [
        (redis.ConnectionError("refused"), "no connection", False),
        (redis.TimeoutError("slow"), "does not answer in time", False),
        (redis.BusyLoadingError("loading"), "still loading", False),
        (redis.AuthenticationError("WRONGPASS"), "the user or the password", True),
        (redis.exceptions.NoPermissionError("User web has ..."), r"no right to it \(User web has", True),
        (
            redis.ResponseError("ACL failure in script: No permissions to access a key script: on @user:1."),
            r"no right to it \(No permissions to access a key\);",
            True,
        ),
        (redis.exceptions.ReadOnlyError("ro"), "read-only replica", True),
        (redis.exceptions.OutOfMemoryError("oom"), "out of memory", True),
        (redis.exceptions.NoScriptError("No matching script."), "scripts were flushed", True),
        (redis.ResponseError("odd"), "odd", True),
    ],
)
def test_each_error_is_said_in_words(error: redis.RedisError, words: str, *, is_refusal: bool) -> None:
    with pytest.raises(BrokerUnavailable, match=words) as raised, translated("do it"):
        raise error
    assert raised.value.is_refusal is is_refusal


def test_a_parameter_that_nobody_knows_is_said_before_the_first_command() -> None:
    with pytest.raises(
        ValueError, match=r"^The parameter 'SSL_CERT_REQS' of the URL is not known\.$"
    ) as raised:
        connect("rediss://:hidden@127.0.0.1:9/0?SSL_CERT_REQS=none", timeout_s=1)
    assert "hidden" not in str(raised.value)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translated("do it"):
        raise KeyError


@pytest.mark.slow
def test_many_threads_share_a_few_connections(redis_url: str, client: redis.Redis) -> None:
    shared = connect(redis_url, timeout_s=5)
    most = 0

    def wait(key: int) -> None:
        nonlocal most
        shared.blpop([f"nothing:{key}"], timeout=0.2)
        most = max(most, sum(each["cmd"] == "blpop" for each in client.client_list()))

    with ThreadPoolExecutor(CONNECTIONS + 20) as threads:
        list(threads.map(wait, range(CONNECTIONS + 20)))
    assert 0 < most <= CONNECTIONS
    shared.close()


def test_our_own_server_is_as_it_should_be(client: redis.Redis) -> None:
    assert check_server(client) == []


def test_a_server_that_may_lose_jobs_is_warned_of(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendonly", "no")
    try:
        warnings = check_server(client)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
    assert [warning.split()[0] for warning in warnings] == ["appendonly", "maxmemory-policy"]


def test_a_primary_without_enough_replicas_is_said(client: redis.Redis) -> None:
    script = client.register_script("return redis.call('SET', KEYS[1], 'x')")
    client.config_set("min-replicas-to-write", 1)
    try:
        for write in (lambda: client.set("a", 1), lambda: script(keys=["a"])):
            with (
                pytest.raises(BrokerUnavailable, match="than its min-replicas-to-write") as raised,
                translated("take a job"),
            ):
                write()
            assert raised.value.is_refusal
    finally:
        client.config_set("min-replicas-to-write", 0)


def test_an_old_server_is_refused(client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda *_: {"redis_version": "6.0.16"})
    with pytest.raises(BrokerUnavailable, match=r"6\.0\.16 is too old"):
        check_server(client)


def test_nothing_is_retried_behind_our_back(redis_url: str) -> None:
    with connect(redis_url, timeout_s=5) as client:
        assert client.get_retry().get_retries() == 0


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")
def test_the_kernel_gives_a_command_up_when_its_caller_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = connect(f"redis://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.9).connection_pool
        with pool.connection_class(**pool.connection_kwargs)._connect() as connected:
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 900
