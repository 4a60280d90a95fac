"""How this project talks to Redis: one way to connect, one translation of its errors.

Owns time-outs, the rule that no command is retried on its own, and the words in which a Redis
that is away is described: they name a host or a socket, never a password.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import BrokerUnavailable

REDIS_MIN_VERSION: Final = (6, 2)
"""LMOVE and GETDEL came with Redis 6.2."""

CONNECTIONS: Final = 32
"""Of one client. Requests that wait hold none, and a command takes a millisecond or two: 900 waiting clients
of two web processes had up to 200 in use before there was a bound, nearly all of them idle again at once."""


def connect(url: str, *, timeout_s: float) -> redis.Redis:
    """A client for `url`; nothing is sent yet. Commands fail with BrokerUnavailable inside `translated`.

    `timeout_s` bounds each reply (and half of it, at most a second, connecting): a Redis behind a dead
    link must not hold a request for minutes. Nothing is retried: a completion that is sent twice would
    be judged twice, and the caller alone knows how to ask what became of the first.
    Threads share CONNECTIONS connections and wait for one as they do for a reply.
    Raises ValueError when the URL is not one of Redis.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(1.0, timeout_s / 2),
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        health_check_interval=0,
        client_name="batchwire",
    )
    return redis.Redis.from_pool(pool)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn every error of the Redis client into BrokerUnavailable, which says `what` could not be done."""
    try:
        yield
    except redis.RedisError as error:
        message = f"Redis can't {what}: {_reason(error)}."
        raise BrokerUnavailable(message, is_refusal=_is_refusal(error)) from error


def server_pid(client: redis.Redis) -> int:
    """The process id of the Redis server. Raises BrokerUnavailable."""
    with translated("tell its process id"):
        return int(client.info("server")["process_id"])


def check_server(client: redis.Redis) -> list[str]:
    """Ask the server what it is. Returns warnings for people; raises BrokerUnavailable if it is too old.

    A managed Redis may forbid CONFIG: then there is nothing to warn of.
    """
    with translated("tell its version"):
        version = str(client.info("server")["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < REDIS_MIN_VERSION:
        raise BrokerUnavailable(f"Redis {version} is too old: Batchwire needs 6.2 or newer (or Valkey).")
    try:
        # One name a call: Redis 6.2 takes no more.
        reply = client.config_get("appendonly") | client.config_get("maxmemory-policy")
    except redis.RedisError:
        return []
    settings = {_text(name): _text(value) for name, value in reply.items()}
    warnings = []
    if settings.get("appendonly") == "no":
        warnings.append("appendonly is off: a restart of Redis loses accepted jobs; set appendonly yes")
    if settings.get("maxmemory-policy", "noeviction") != "noeviction":
        warnings.append("maxmemory-policy is not noeviction: under pressure Redis drops accepted jobs")
    return warnings


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _is_refusal(error: redis.RedisError) -> bool:
    """Whether it answered. One that loads its data has just been started: it is still away."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return True  # connection errors, in redis-py
    return not isinstance(error, redis.ConnectionError | redis.TimeoutError)


def _reason(error: redis.RedisError) -> str:
    match error:
        case redis.AuthenticationError() | redis.exceptions.NoPermissionError():
            return "it refuses the user or the password of REDIS_URL"
        case redis.BusyLoadingError():
            return "it is still loading its data"
        case redis.exceptions.ReadOnlyError():
            return "it is a read-only replica; REDIS_URL must name the primary"
        case redis.exceptions.OutOfMemoryError():
            return "it is out of memory"
        case redis.TimeoutError():
            return "it does not answer in time"
        case redis.ConnectionError():
            return f"no connection ({error})"
    return str(error)
