"""API keys on a real Redis: the operator's changes, and the snapshot that processes judge by."""

import msgspec
import pytest
import redis

from broker.api_keys import ApiKey, ApiKeyStore, KeyExists, KnownKeys, UnknownKey
from broker.clock import RedisClock
from broker.connection import connect
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from tests.support.redis_server import RedisServer
from web.keys import secret


class _Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> _Time:
    return _Time()


@pytest.fixture
def store(client: redis.Redis, keys: Keys) -> ApiKeyStore:
    return ApiKeyStore(client, keys)


@pytest.fixture
def known(client: redis.Redis, keys: Keys, time: _Time) -> KnownKeys:
    return KnownKeys(client, keys, RedisClock(time))


def _key(name: str, now: float = 0.0) -> ApiKey:
    _, digest = secret.fresh(now)
    return ApiKey(name=name, secrets=(digest,), created_at=now)


def test_a_change_is_known_after_the_snapshot_s_second(
    store: ApiKeyStore, known: KnownKeys, time: _Time
) -> None:
    ann = _key("ann")
    secret_id = ann.secrets[0].id
    assert known.find(secret_id) is None
    store.add(ann)
    time.now += 1.0
    found = known.find(secret_id)
    assert found is not None
    assert found.key == ann
    assert found.digest.hex() == ann.secrets[0].sha256
    store.change("ann", lambda key: msgspec.structs.replace(key, rate=2.5, burst=5))
    time.now += 1.0
    changed = known.find(secret_id)
    assert changed is not None
    assert (changed.key.rate, changed.key.burst) == (2.5, 5)
    store.revoke("ann")
    time.now += 1.0
    assert known.find(secret_id) is None
    assert store.all() == []


def test_two_revocations_in_a_row_are_both_noticed(store: ApiKeyStore, known: KnownKeys, time: _Time) -> None:
    both = [_key("ann"), _key("ben")]
    for each in both:
        store.add(each)
    assert all(known.find(each.secrets[0].id) for each in both)
    for each in both:
        store.revoke(each.name)
        time.now += 1.0
        assert known.find(each.secrets[0].id) is None


def test_a_full_redis_takes_a_revocation(own_redis: RedisServer, keys: Keys, time: _Time) -> None:
    ann = _key("ann")
    with connect(own_redis.url, timeout_s=5) as client:
        store, known = ApiKeyStore(client, keys), KnownKeys(client, keys, RedisClock(time))
        store.add(ann)
        assert known.find(ann.secrets[0].id) is not None
        client.config_set("maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="change an API key"):
            store.add(_key("ben"))
        store.revoke("ann")
        time.now += 1.0
        assert known.find(ann.secrets[0].id) is None


def test_that_all_keys_are_gone_is_said_once_and_they_open_nothing(
    client: redis.Redis,
    store: ApiKeyStore,
    known: KnownKeys,
    time: _Time,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ann, ben = _key("ann"), _key("ben")
    store.add(ann)
    store.add(ben)
    assert known.find(ann.secrets[0].id) is not None
    for name in ("ann", "ben"):
        store.revoke(name)
    time.now += 1.0
    assert known.find(ann.secrets[0].id) is None
    assert caplog.messages == []  # an operator's doing
    store.add(ann)
    time.now += 1.0
    assert known.find(ann.secrets[0].id) is not None
    client.flushall()
    for _ in range(3):
        time.now += 1.0
        assert known.find(ann.secrets[0].id) is None
    (line,) = caplog.messages
    assert line.startswith("Redis has no API keys any more: every request that needs one is refused until")
    store.add(ben)
    time.now += 1.0
    assert known.find(ben.secrets[0].id) is not None


def test_names_are_added_once_and_changed_only_where_they_are(store: ApiKeyStore) -> None:
    store.add(_key("ann"))
    with pytest.raises(KeyExists, match="change it, rotate it, or revoke it"):
        store.add(_key("ann"))
    with pytest.raises(UnknownKey, match="There is no key 'ben'"):
        store.change("ben", lambda key: key)
    with pytest.raises(UnknownKey):
        store.revoke("ben")
    assert [key.name for key in store.all()] == ["ann"]


def test_an_old_secret_ends_by_itself(store: ApiKeyStore, known: KnownKeys, time: _Time) -> None:
    now = store.now()
    fresh, old = _key("ann", now), _key("ann", now)
    (ending,) = old.secrets
    ending = msgspec.structs.replace(ending, valid_until=now + 60)
    store.add(msgspec.structs.replace(fresh, secrets=(*fresh.secrets, ending)))
    known._clock.sync(now, sent=time.now, received=time.now)
    assert known.find(ending.id) is not None
    time.now += 61
    assert known.find(ending.id) is None
    assert known.find(fresh.secrets[0].id) is not None


def test_a_record_that_is_not_ours_opens_nothing(
    client: redis.Redis, keys: Keys, store: ApiKeyStore, known: KnownKeys
) -> None:
    ann = _key("ann")
    store.add(ann)
    client.hset(keys.api_keys, mapping={"ben": "{", "cleo": '{"name": "cleo"}'})
    assert known.find(ann.secrets[0].id) is not None
    assert [key.name for key in store.all()] == ["ann"]


def test_when_a_key_was_used_is_kept_once_a_minute(store: ApiKeyStore, known: KnownKeys, time: _Time) -> None:
    store.add(_key("ann"))
    known.note_use("ann")
    known.find("")
    assert store.used_at() == {}
    time.now += 60
    known.find("")
    assert [*store.used_at()] == ["ann"]
    store.revoke("ann")
    assert store.used_at() == {}
    known.note_use("ben")
    known.stop()
    assert [*store.used_at()] == ["ben"]


def test_without_redis_the_last_snapshot_serves_and_without_a_snapshot_nobody(
    own_redis: RedisServer, keys: Keys, time: _Time
) -> None:
    ann = _key("ann")
    with connect(own_redis.url, timeout_s=1) as client:
        ApiKeyStore(client, keys).add(ann)
        before, late = (KnownKeys(client, keys, RedisClock(time)) for _ in range(2))
        assert before.find(ann.secrets[0].id) is not None
        own_redis.stop(kill=True)
        time.now += 100
        assert before.find(ann.secrets[0].id) is not None
        assert before.is_current
        with pytest.raises(BrokerUnavailable):
            late.find(ann.secrets[0].id)
        assert not late.is_current
        assert late.peek(ann.secrets[0].id) is None
