"""API keys in Redis: what is stored of each, the operator's changes, and the snapshot that processes have.

Owns the hash `bw:keys` and the form of a record in it. It holds digests: the keys themselves are shown once,
by `python -m web.keys`, and stored nowhere. What a key looks like is web/keys/secret.py's, limits are
key_limits.py's. The hash has no TTL: a key lives until it is revoked.
"""

import contextlib
import logging
import math
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import redis
from msgspec import Struct

from broker.clock import RedisClock
from broker.cluster import redis_time
from broker.connection import translated
from broker.errors import BrokerUnavailable, ClientError
from broker.keys import Keys

_LOG = logging.getLogger(__name__)

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

PRIORITIES: Final = ("low", "normal", "high")
"""The lowest first."""

RIGHTS: Final = ("predict", "metrics")

MAX_KEYS: Final = 10_000
"""A snapshot of so many takes 4 MB of each process."""

SNAPSHOT_S: Final = 1.0

_REVISION: Final = ":revision"
"""The field that changes with every change; no key can have this name."""

_USED_S: Final = 60.0
"""How often a process tells which keys it has seen."""

_USED_TTL_S: Final = 90 * 86400


class SecretDigest(Struct, frozen=True, kw_only=True):
    """One of the secrets that a key has, as what it must hash to."""

    id: str
    """The middle part of the key's text, by which it is found."""
    sha256: str
    """Of the key's whole text, in hexadecimal digits."""
    set_at: float
    """Redis' time at which it was made, or given its end."""
    valid_until: float = 0.0
    """Redis' time; 0: until it is rotated."""


class ApiKey(Struct, frozen=True, kw_only=True):
    """A key: its name, its secrets' digests, what it may ask and how much of it."""

    name: str
    secrets: tuple[SecretDigest, ...]
    created_at: float
    """Redis' time."""
    rate: float = 0.0
    """Pictures a second; 0: no limit."""
    burst: int = 0
    """Pictures at once, after a pause."""
    is_burst_given: bool = False
    """Whether the operator chose it; else it is the default of the rate, and follows it."""
    jobs: int = 0
    """Jobs that have not ended, of all models together; 0: no limit."""
    weight: int = 100
    """Its share beside other keys, in percent of an ordinary one."""
    priority: str = "normal"
    """The highest that it may ask for."""
    models: tuple[str, ...] = ()
    """Those that it may ask; empty: all."""
    may: tuple[str, ...] = ("predict",)
    """Its rights, of RIGHTS."""

    def may_ask(self, model: str) -> bool:
        """Whether it may ask this model, and see it."""
        return not self.models or model in self.models


class UnknownKey(ClientError):
    """No API key has this name."""


class KeyExists(ClientError):
    """An API key has this name already."""


@dataclass(frozen=True, slots=True)
class KnownSecret:
    """A secret in a snapshot."""

    key: ApiKey
    digest: bytes
    """SHA-256."""
    valid_until: float
    set_at: float


class ApiKeyStore:
    """The operator's half. Every method raises BrokerUnavailable."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis = client
        self._keys = keys

    def now(self) -> float:
        """Redis' time."""
        with translated("tell the time"):
            return redis_time(self._redis, self._keys.clock)

    def all(self) -> list[ApiKey]:
        """Every key, by name."""
        with translated("list the API keys", self._redis, self._types):
            stored = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys.api_keys))
            return sorted(_read(stored), key=lambda key: key.name)

    def used_at(self) -> dict[str, float]:
        """When each key that was used was last seen, right to a minute or so; Redis' time."""
        with translated("list the API keys"):
            seen = cast("dict[bytes, bytes]", self._redis.hgetall(self._keys.api_keys_used))
        return {name.decode(): float(at) for name, at in seen.items()}

    def models(self) -> frozenset[str]:
        """The names of the models that were ever announced."""
        with translated("list the models"):
            names = cast("set[bytes]", self._redis.smembers(self._keys.models))
        return frozenset(name.decode() for name in names)

    def add(self, key: ApiKey) -> None:
        """Store a new key. Raises KeyExists, ClientError."""

        def judge(before: ApiKey | None, count: int) -> ApiKey:
            if before is not None:
                raise KeyExists(f"There is a key {key.name!r} already: change it, rotate it, or revoke it.")
            if count >= MAX_KEYS:
                raise ClientError(f"There are {MAX_KEYS} keys, and no more are kept: revoke some.")
            return key

        self._write(key.name, judge)

    def change(self, name: str, change: Callable[[ApiKey], ApiKey]) -> ApiKey:
        """Replace a key by what `change` makes of it; return that. Raises UnknownKey."""

        def judge(before: ApiKey | None, _: int) -> ApiKey:
            if before is None:
                raise UnknownKey(f"There is no key {name!r}.")
            return change(before)

        return self._write(name, judge)

    def revoke(self, name: str) -> None:
        """Remove a key for good, with what is known of its limits. Raises UnknownKey."""
        key, own = self._keys.api_keys, self._keys.of_api_key(name)
        with translated("revoke an API key", self._redis, self._types):
            # No MULTI and nothing that takes memory: a full Redis refuses neither. A snapshot that finds no
            # revision is read whole.
            if not self._redis.hdel(key, name):
                raise UnknownKey(f"There is no key {name!r}.")
            self._redis.hdel(key, _REVISION)
            self._redis.hdel(self._keys.api_keys_used, name)
            for each in (own.bucket, own.jobs, own.polled):
                self._redis.delete(each)
        with contextlib.suppress(BrokerUnavailable), translated("revoke an API key"):
            self._redis.hset(key, _REVISION, secrets.token_hex(8))

    def _write(self, name: str, judge: Callable[[ApiKey | None, int], ApiKey]) -> ApiKey:
        """Have `judge` turn what is stored of a name, and how many keys there are, into what shall be."""
        key = self._keys.api_keys
        with translated("change an API key", self._redis, self._types):
            while True:
                # WatchError: another operator has just changed some key.
                with self._redis.pipeline(transaction=True) as pipe, contextlib.suppress(redis.WatchError):
                    pipe.watch(key)  # type: ignore[no-untyped-call]
                    stored = cast("bytes | None", pipe.hget(key, name))
                    count = int(pipe.hlen(key))
                    made = judge(next(iter(_read({name.encode(): stored} if stored else {})), None), count)
                    pipe.multi()
                    pipe.hset(key, name, msgspec.json.encode(made).decode())
                    pipe.hset(key, _REVISION, secrets.token_hex(8))
                    pipe.execute()
                    return made

    @property
    def _types(self) -> dict[str, str]:
        return {self._keys.api_keys: "hash"}


class KnownKeys:
    """The keys as a process knows them: a snapshot that is at most two seconds old while Redis answers.

    While it does not, the last one serves. Safe to use from any thread.
    """

    def __init__(self, client: redis.Redis, keys: Keys, clock: RedisClock) -> None:
        self._redis = client
        self._keys = keys
        self._clock = clock
        self._reading = threading.Lock()
        self._began_at = float("-inf")
        self._failure: BrokerUnavailable | None = None
        self._revision: bytes | None = None
        self._secrets: Mapping[str, KnownSecret] | None = None
        self._used: set[str] = set()
        self._told_at = clock.monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="api-keys", daemon=True)

    def start(self) -> None:
        """Read once a second from now on: what only peeks must not depend on who else asks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading by itself, and record the uses since the last record."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._reading:
            self._tell_used(math.inf)

    def find(self, secret_id: str) -> KnownSecret | None:
        """The secret with this id, if it is valid. Raises BrokerUnavailable where none was ever read.

        One thread reads at a time; others wait for it only where the snapshot is older than two seconds.
        """
        self._read_again()
        if self._secrets is None:
            raise self._failure or BrokerUnavailable("The API keys are being read; send it again.")
        return self._valid(self._secrets.get(secret_id))

    @property
    def is_current(self) -> bool:
        """Whether the snapshot is one that `peek` may judge by."""
        return self._clock.monotonic() - self._began_at <= 2 * SNAPSHOT_S and self._secrets is not None

    def peek(self, secret_id: str) -> KnownSecret | None:
        """The same as it was when it was last read; asks nobody and waits for nobody."""
        return self._valid((self._secrets or {}).get(secret_id))

    def note_use(self, name: str) -> None:
        """Remember that a key was used, for the operator's list."""
        self._used.add(name)

    def _keep(self) -> None:
        while not self._stopping.wait(SNAPSHOT_S):
            self._read_again()

    def _read_again(self) -> None:
        age_s = self._clock.monotonic() - self._began_at
        if age_s >= SNAPSHOT_S and self._reading.acquire(blocking=age_s > 2 * SNAPSHOT_S):
            try:
                if self._clock.monotonic() - self._began_at >= SNAPSHOT_S:
                    self._refresh()
            finally:
                self._reading.release()

    def _valid(self, known: KnownSecret | None) -> KnownSecret | None:
        if known is None or not known.valid_until:
            return known
        until = known.valid_until + self._clock.shift_s(known.set_at)
        return known if self._clock.now() < until else None

    def _refresh(self) -> None:
        began_at = self._clock.monotonic()
        key = self._keys.api_keys
        try:
            with translated("list the API keys", self._redis, {key: "hash"}):
                revision = self._redis.hget(key, _REVISION) if self._secrets is not None else None
                if revision is None or revision != self._revision:
                    stored = cast("dict[bytes, bytes]", self._redis.hgetall(key))
                    if self._secrets and not stored:  # `revoke` leaves a revision
                        _LOG.warning(
                            "Redis has no API keys any more: every request that needs one is refused until "
                            "some are added (.venv/bin/python -m web.keys add), or Redis has its data back."
                        )
                    self._revision = stored.get(_REVISION.encode())
                    self._secrets = _by_id(_read(stored))
            self._failure = None
            self._tell_used(began_at)
        except BrokerUnavailable as error:
            self._failure = error
        self._began_at = began_at

    def _tell_used(self, now: float) -> None:
        if not self._used or now - self._told_at < _USED_S:
            return
        self._told_at, used, self._used = now, self._used, set()
        # It is for people alone: a full Redis refuses it.
        with contextlib.suppress(BrokerUnavailable), translated("keep when API keys were used"):
            at = f"{self._clock.now():.0f}"
            self._redis.hset(self._keys.api_keys_used, mapping=dict.fromkeys(used, at))
            self._redis.expire(self._keys.api_keys_used, _USED_TTL_S)


def _read(stored: Mapping[bytes, bytes]) -> Iterable[ApiKey]:
    """The records of the hash; one that can't be read is no key: it opens nothing."""
    for field, value in stored.items():
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            if field.decode() != _REVISION and (key := msgspec.json.decode(value, type=ApiKey)):
                yield key


def _by_id(keys: Iterable[ApiKey]) -> dict[str, KnownSecret]:
    known = {}
    for key in keys:
        for each in key.secrets:
            with contextlib.suppress(ValueError):  # no digest: it opens nothing
                digest = bytes.fromhex(each.sha256)
                known[each.id] = KnownSecret(key, digest, each.valid_until, each.set_at)
    return known
