"""How this project talks to Redis: one way to connect, one translation of its errors.

Owns time-outs, the rule that no command is retried on its own, and the words in which a Redis
that is away is described: they name a host or a socket, never a password.
"""

import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker import cluster, sentinel, tls
from broker.errors import BrokerUnavailable
from broker.metrics import REDIS_OPERATION

REDIS_MIN_VERSION: Final = (6, 2)
"""LMOVE and GETDEL came with Redis 6.2."""

CONNECTIONS: Final = 32
"""Of one client. Requests that wait hold none, and a command takes a millisecond or two: 900 waiting clients
of two web processes had up to 200 in use before there was a bound, nearly all of them idle again at once."""

_CODE: Final = re.compile(r"\b(OOM|MISCONF|READONLY|WRONGTYPE|BUSY|NOREPLICAS)\b")
"""What Redis calls a refusal. In a script's error it stands in the middle, differently in each release."""

_REASONS: Final = {
    "OOM": "it is out of memory",
    "READONLY": "it is a read-only replica; REDIS_URL must name the primary",
    "NOREPLICAS": "it has fewer replicas than its min-replicas-to-write",
    "BUSY": "it is busy with a script of another client",
    "NOSCRIPT": "its scripts were flushed between the load of one and its call",
    "WRONGTYPE": "a key of this project holds a value of another type",
}

_WHY_NOT_WRITTEN: Final = re.compile(r"writing to the AOF file: ([^:.]+?)(?: script: .*|\.|$)")

_DENIED_IN_SCRIPT: Final = re.compile(
    r"(?:ACL failure in script: (.+?) script: |(The user executing the script .+))"
)
"""Redis' and Valkey's words where the user may call a script, but not one of its commands."""

_OF_CLUSTER: Final = {
    redis.exceptions.MovedError: "it is a node of a Redis Cluster: REDIS_URL must begin with cluster://",
    redis.exceptions.AskError: "it is a node of a Redis Cluster: REDIS_URL must begin with cluster://",
    redis.exceptions.TryAgainError: "the slot of its keys is moving to another node; try again",
    redis.exceptions.ClusterDownError: "no node of the cluster serves the slot of its keys ({})",
    redis.exceptions.ClusterCrossSlotError: "its keys are in several slots of the cluster. This is a bug",
}

_MOVING: Final = (
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
)
"""A slot that no node serves now is away, for all its keys alike."""

_MOVED_IN_SCRIPT: Final = "non local key in a cluster node"
"""What a script meets whose slot moves while it runs: its next command's key has gone ahead."""

_NOT_A_CLUSTER: Final = "cluster support disabled"

_CALLED: Final = {
    "string": "a string",
    "list": "a list",
    "set": "a set",
    "zset": "a sorted set",
    "hash": "a hash",
}


def connect(url: str, *, timeout_s: float, blocking: int = 0) -> redis.Redis:
    """A client for `url`; nothing is sent yet. Commands fail with BrokerUnavailable inside `translated`.

    `timeout_s` bounds each reply (and half of it, at most a second, connecting): a Redis behind a dead
    link must not hold a request for minutes. Nothing is retried: a completion that is sent twice would
    be judged twice, and the caller alone knows how to ask what became of the first. Nor does the kernel
    send a command again that its caller has given up.
    Threads share CONNECTIONS connections and wait for one as they do for a reply; `blocking` more are for
    commands that block beside them, such as those that wait for the bell of each shard of a cluster.
    Raises ValueError when the URL is not one of Redis, or has a parameter that nobody knows.
    """
    if urlsplit(url).scheme in cluster.SCHEMES:
        return cluster.connect(url, lambda node_url: _server(node_url, timeout_s, blocking))
    return _server(url, timeout_s, blocking)


def _server(url: str, timeout_s: float, blocking: int) -> redis.Redis:
    """A client for one server, or for the primary of Sentinels."""
    options = {
        "max_connections": CONNECTIONS + blocking,
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(1.0, timeout_s / 2),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "health_check_interval": 0,
        "client_name": "batchwire",
        "driver_info": None,  # no CLIENT SETINFO: two round trips a connection, unknown before Redis 7.2
        **_tcp_options(url, timeout_s),
    }
    pool: redis.BlockingConnectionPool
    if url.partition("://")[0] in sentinel.SCHEMES:
        pool = sentinel.pool(url, options)
    else:
        pool = redis.BlockingConnectionPool.from_url(url, **options)
    try:
        pool.connection_class(**pool.connection_kwargs)  # the first command would find out, in a thread
    except TypeError as error:
        name = str(error).rpartition(" ")[2]
        raise ValueError(f"The parameter {name} of the URL is not known.") from None
    return redis.Redis.from_pool(pool)


def _tcp_options(url: str, timeout_s: float) -> dict[str, dict[int, int]]:
    """What the kernel does of its own about a peer that is silent, where it can.

    A closed connection still repeats what was not acknowledged: after a cut of 10 s a write was done 12.6 s
    after its caller had given it up: a picture run for a client with a 503, or jobs claimed that no worker
    knows of. And a dead peer is noticed when no command waits for it.
    """
    if url.startswith("unix:") or not hasattr(socket, "TCP_USER_TIMEOUT"):
        return {}
    options = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
    return {"socket_keepalive_options": {**options, socket.TCP_USER_TIMEOUT: round(timeout_s * 1000)}}


@contextmanager
def translated(
    what: str,
    client: redis.Redis | None = None,
    types: Mapping[str, str] | None = None,
    *,
    waits: bool = False,
) -> Iterator[None]:
    """Turn every error of the Redis client into BrokerUnavailable, which says `what` could not be done.

    Where a key is of another type than in `types`, `client` is asked which. How long it took is measured,
    unless it `waits` for others.
    """
    began = time.perf_counter()
    try:
        yield
    except redis.RedisError as error:
        reason = _reason(error)
        if refusal_code(error) == "WRONGTYPE" and client is not None and types:
            reason = _misplaced(client, types) or reason
        raise unavailable(what, error, reason) from error
    finally:
        if not waits:
            REDIS_OPERATION.labels(what).observe(time.perf_counter() - began)


def unavailable(what: str, error: redis.RedisError, reason: str = "") -> BrokerUnavailable:
    """What `translated` raises for an error that came as a reply."""
    message = f"Redis can't {what}: {reason or _reason(error)}."
    made = BrokerUnavailable(message, is_refusal=_is_refusal(error))
    made.__cause__ = error
    return made


def server_pid(client: redis.Redis) -> int:
    """The process id of the Redis server. Raises BrokerUnavailable."""
    with translated("tell its process id"):
        return int(client.info("server")["process_id"])


def check_server(client: redis.Redis) -> list[str]:
    """Ask the server, or a cluster's nodes, what it is. Returns warnings for people.

    Raises BrokerUnavailable if it is too old. A managed Redis may forbid CONFIG: then there is nothing to
    warn of.
    """
    with translated("tell its version"):
        version = str(client.info("server")["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < REDIS_MIN_VERSION:
        raise BrokerUnavailable(f"Redis {version} is too old: Batchwire needs 6.2 or newer (or Valkey).")
    try:
        # One name a call: Redis 6.2 takes no more.
        replies = [
            (*node.config_get("appendonly").items(), *node.config_get("maxmemory-policy").items())
            for node in cluster.nodes(client)
        ]
    except redis.RedisError:
        return []
    settings = {(_text(name), _text(value)) for reply in replies for name, value in reply}
    warnings = []
    if ("appendonly", "no") in settings:
        warnings.append("appendonly is off: a restart of Redis loses accepted jobs; set appendonly yes")
    if any(name == "maxmemory-policy" and value != "noeviction" for name, value in settings):
        warnings.append("maxmemory-policy is not noeviction: under pressure Redis drops accepted jobs")
    return warnings


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def refusal_code(error: redis.RedisError) -> str:
    """Redis' name for the refusal, such as WRONGTYPE; empty where it has none that is known here."""
    match error:
        case redis.exceptions.OutOfMemoryError():
            return "OOM"
        case redis.exceptions.ReadOnlyError():
            return "READONLY"
        case redis.exceptions.NoScriptError():
            return "NOSCRIPT"
    code = _CODE.search(str(error))
    return code[1] if code else ""


def refusal(error: redis.RedisError) -> str:
    """What a refused write says to operators."""
    return f"Redis can't take a write: {_reason(error)}."


def _misplaced(client: redis.Redis, types: Mapping[str, str]) -> str:
    """Say which of these keys is of another type; empty where none is any more."""
    try:
        with client.pipeline(transaction=False) as pipe:
            for key in types:
                pipe.type(key)
            # A tier's user may not ask of every key.
            actual = [
                "" if isinstance(each, redis.RedisError) else _text(each) for each in pipe.execute(False)
            ]
    except redis.RedisError:
        return ""
    wrong = (
        f"{key} holds {_CALLED.get(held, f'a {held}')}, where {_CALLED[wanted]} belongs"
        for (key, wanted), held in zip(types.items(), actual, strict=True)
        if held not in ("", "none", wanted)
    )
    return "; ".join(wrong)


def _is_refusal(error: redis.RedisError) -> bool:
    """Whether it answered. One that loads its data, or is busy with a script, is away for all alike."""
    if refusal_code(error) == "BUSY":
        return False
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return True  # connection errors, in redis-py
    if isinstance(error, _MOVING) or _MOVED_IN_SCRIPT in str(error):
        return False
    return not isinstance(error, redis.ConnectionError | redis.TimeoutError)


def _reason(error: redis.RedisError) -> str:
    match error:
        case redis.AuthenticationError():
            return "it refuses the user or the password of REDIS_URL"
        case redis.exceptions.NoPermissionError():
            return _denied(str(error))
        case redis.BusyLoadingError():
            return "it is still loading its data"
        case redis.TimeoutError():
            return "it does not answer in time"
        case redis.ConnectionError():
            is_said = isinstance(error, sentinel.NoPrimary)
            return str(error) if is_said else tls.reason(error) or f"no connection ({error})"
    if denied := _DENIED_IN_SCRIPT.search(str(error)):
        return _denied(denied[1] or denied[2])
    return _of_cluster(error) or _refused(error)


def _refused(error: redis.RedisError) -> str:
    code = refusal_code(error)
    return _disk(str(error)) if code == "MISCONF" else _REASONS.get(code, str(error))


def _of_cluster(error: redis.RedisError) -> str:
    """What is wrong with a cluster, if that is it; else empty."""
    if _MOVED_IN_SCRIPT in str(error):
        return _OF_CLUSTER[redis.exceptions.TryAgainError]
    if _NOT_A_CLUSTER in str(error):
        return "it is not part of a Redis Cluster: REDIS_URL must begin with redis://"
    return _OF_CLUSTER.get(type(error), "").format(error)


def _denied(text: str) -> str:
    return f"the user of REDIS_URL has no right to it ({text}); deploy/redis/users.acl has the rights of each"


def _disk(text: str) -> str:
    why = _WHY_NOT_WRITTEN.search(text)
    return f"it can't write its append-only file ({why[1]})" if why else "it can't save its data to its disk"
