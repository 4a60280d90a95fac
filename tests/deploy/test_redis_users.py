"""What Redis' users may do, and what they may not (deploy/redis/users.acl).

That their rights suffice is proved by the tests of the contract and of real processes, where each tier is its
user.
"""

import hashlib
import os
import subprocess

import pytest
import redis

from broker.connection import connect
from broker.keys import Keys
from broker.producer import Producer
from tests.support import ROOT
from tests.support.fakes import LIMITS, MODEL, job
from tests.support.redis_server import USERS, RedisServer, as_user, is_redis_6

_MODEL = "bw:{m}:"
_JOB = f"{_MODEL}result:1"

ALLOWED = {
    "web": [
        ("RPUSH", f"{_MODEL}queue", "job"),
        ("RPUSH", f"{_MODEL}polled", "job"),
        ("SET", _JOB, "pending"),
        ("HGETALL", f"{_MODEL}states"),
        ("LLEN", f"{_MODEL}dead"),
        ("SUBSCRIBE", "bw:results:1"),
        ("WAIT", "0", "1"),
        ("HGETALL", "bw:keys"),
        ("HSET", "bw:{key:ann}:bucket", "tokens", "1"),
    ],
    "model_server": [
        ("LMOVE", f"{_MODEL}queue", f"{_MODEL}claims:1", "LEFT", "RIGHT"),
        ("SET", _JOB, "result"),
        ("RPUSH", f"{_MODEL}dead", "letter"),
        ("PUBLISH", "bw:results:1", "result"),
    ],
    "operator": [
        ("LRANGE", f"{_MODEL}dead", "0", "-1"),
        ("RPUSH", f"{_MODEL}polled", "job"),
        ("HSET", "bw:keys", "ann", "{}"),
        ("DEL", "bw:{key:ann}:jobs"),
        ("WAIT", "0", "1"),
        ("INFO",),
    ],
}

REFUSED_TO_ALL = [
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("MONITOR",),
    ("SHUTDOWN",),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "web", "+@all"),
    ("REPLICAOF", "host", "1"),
    ("DEBUG", "SLEEP", "1"),
    ("SAVE",),
    ("MIGRATE", "host", "1", _JOB, "0", "1"),
    ("DUMP", f"{_MODEL}queue"),
    ("EVAL", "return 1", "0"),
    ("SCRIPT", "FLUSH"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("GET", "other:{m}:result:1"),
    ("SET", "other:{m}:result:1", "x"),
    ("RPUSH", "other:{m}:polled", "x"),
    ("SUBSCRIBE", "other:results:1"),
    ("PSUBSCRIBE", "*"),
]

REFUSED = {
    "web": [
        ("LRANGE", f"{_MODEL}dead", "0", "-1"),
        ("LRANGE", f"{_MODEL}queue", "0", "-1"),
        ("LMOVE", f"{_MODEL}queue", f"{_MODEL}polled", "LEFT", "LEFT"),
        ("LTRIM", f"{_MODEL}queue", "1", "0"),
        ("LRANGE", f"{_MODEL}claims:1", "0", "-1"),
        ("LTRIM", f"{_MODEL}claims:1", "1", "0"),
        ("RPUSH", f"{_MODEL}dead", "x"),
        ("ZADD", f"{_MODEL}workers", "9999999999", "me"),
        ("HSET", f"{_MODEL}states", "me", "{}"),
        ("SET", f"{_MODEL}card", "{}"),
        ("SADD", "bw:models", "x"),
        ("SET", "bw:contract", "9"),
        ("HSET", "bw:keys", "me", "{}"),
        ("HDEL", "bw:keys", "ann"),
        ("DEL", "bw:keys"),
    ],
    "model_server": [
        ("RPUSH", f"{_MODEL}queue", "job"),
        ("RPUSH", f"{_MODEL}polled", "job"),
        ("RPUSH", f"{_MODEL}claims:1", "job"),
        ("LMOVE", f"{_MODEL}dead", f"{_MODEL}queue", "LEFT", "LEFT"),
        ("HGET", f"{_MODEL}callbacks", "1"),
        ("HGETALL", f"{_MODEL}callbacks"),
        ("HGETALL", f"{_MODEL}undelivered"),
        ("HSET", f"{_MODEL}callbacks", "1", "{}"),
        ("LRANGE", f"{_MODEL}dead", "0", "-1"),
        ("GET", f"{_MODEL}cached:1"),
        ("GET", f"{_MODEL}request:1"),
        ("SUBSCRIBE", "bw:results:1"),
        ("WAIT", "0", "1"),
        ("HGETALL", "bw:keys"),
        ("HSET", "bw:{key:ann}:bucket", "tokens", "9"),
    ],
    "operator": [
        ("LRANGE", f"{_MODEL}queue", "0", "-1"),
        ("RPUSH", f"{_MODEL}queue", "job"),
        ("GET", _JOB),
        ("HGETALL", f"{_MODEL}callbacks"),
        ("PUBLISH", "bw:results:1", "forged"),
    ],
}


def _may(client: redis.Redis, user: str, command: tuple[str, ...]) -> bool:
    reply: object = client.execute_command("ACL", "DRYRUN", user, *command)  # type: ignore[no-untyped-call]
    return reply == b"OK"


@pytest.mark.skipif(is_redis_6(), reason="Redis 6.2 has no ACL DRYRUN, and no selectors")
@pytest.mark.parametrize("user", USERS)
def test_each_user_may_do_its_tier_s_work_and_nothing_else(client: redis.Redis, user: str) -> None:
    assert [command for command in ALLOWED[user] if not _may(client, user, command)] == []
    assert [command for command in REFUSED_TO_ALL + REFUSED[user] if _may(client, user, command)] == []


def test_a_stolen_password_opens_its_own_prefix_alone(redis_url: str) -> None:
    """By the real commands, on Redis 6.2 as well, and from a script."""
    for user in USERS:
        with connect(as_user(redis_url, user), timeout_s=5) as stolen:
            assert stolen.ping()
            for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("GET", "other:x")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    stolen.execute_command(*command)
            if user != "operator":
                script = stolen.register_script("return redis.call('LRANGE', '{m}:dead', 0, -1)")
                with pytest.raises(redis.ResponseError, match=r"No permissions|can't access"):
                    script()


def test_transactions_outlive_a_restart_with_these_users(own_redis: RedisServer, keys: Keys) -> None:
    """Redis reads its append-only file as its default user: without rights of its own MULTIs are dropped."""
    own_redis.stop(kill=True)
    strict = _make({f"{user.upper()}_PASSWORD": user for user in USERS}, *(["--redis-6.2"] * is_redis_6()))
    own_redis.users.write_text(strict.stdout)
    open_url, own_redis.url = own_redis.url, as_user(own_redis.url, "web")
    own_redis.start()
    with connect(own_redis.url, timeout_s=5) as web:
        accepted = job()
        Producer(web, keys, LIMITS).enqueue(MODEL, accepted)
        own_redis.until_written()
        own_redis.stop(kill=True)
        own_redis.start()
        assert web.llen(keys.of(MODEL).queue) == 1
        assert web.exists(keys.result(MODEL, accepted.id))
    with connect(open_url, timeout_s=5) as nobody:
        for command in ("PING", "INFO", "KEYS *"):
            with pytest.raises(redis.AuthenticationError):
                nobody.execute_command(*command.split())
        with pytest.raises(redis.AuthenticationError):
            nobody.execute_command("AUTH", "default", "")


def test_without_a_password_nobody_gets_in() -> None:
    made = _make({f"{user.upper()}_PASSWORD": user for user in USERS})
    # Without rights Redis 7.0 would lose jobs: the test above fails there.
    assert made.stdout.splitlines()[0] == "user default off ~* &* +@all"
    assert len(made.stdout.splitlines()) == 1 + len(USERS)
    assert ">" not in made.stdout


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "WEB_PASSWORD is not set"),
        ({"WEB_PASSWORD": "a", "KEY_PREFIX": "b*"}, "KEY_PREFIX=b* has a character"),
    ],
)
def test_what_can_t_be_made_into_users_is_refused(environment: dict[str, str], said: str) -> None:
    made = _make(environment)
    assert (made.returncode, made.stdout) == (2, "")
    assert said in made.stderr


def test_users_of_replicas_sentinels_and_people_are_made_where_they_have_a_password() -> None:
    passwords = {f"{user.upper()}_PASSWORD": user for user in USERS}
    peers = {"REPLICA_PASSWORD": "r", "SENTINEL_PASSWORD": "s", "ADMIN_PASSWORD": "a"}
    without, made = _make(passwords), _make(passwords | peers)
    assert made.returncode == without.returncode == 0
    assert made.stdout.startswith(without.stdout)
    added = made.stdout[len(without.stdout) :].splitlines()
    assert [line.split()[1] for line in added] == ["replica", "sentinel", "admin"]
    assert all(
        f"#{hashlib.sha256(word.encode()).hexdigest()} " in line
        for word, line in zip("rsa", added, strict=True)
    )


def _make(environment: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [ROOT / "deploy" / "redis" / "make-users", *options],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
