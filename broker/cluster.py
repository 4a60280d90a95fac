"""A Redis Cluster as one client: each command goes to the node that has its key's slot.

Owns the map of slots, redirections, and what is sent where. A command that a node refused since the slot is
elsewhere was not run, and follows it there; whatever else fails is not sent again. redis-py's RedisCluster
connects as it is made, repeats what timed out in a pipeline, and can't follow a moved slot with a MULTI
without repeating lost ones too (docs/decisions.md). Does not know what keys mean.
"""

import hashlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.client import Pipeline, PubSub
from redis.commands.core import Script
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, NoScriptError, TryAgainError

from broker import addresses
from broker.addresses import Address
from broker.scripts import lua

SCHEMES: Final = {"cluster": "redis", "clusters": "rediss"}
"""Of REDIS_URL -> of each node's."""

_PORT: Final = 6379

PATIENCE_S: Final = 0.5
"""For so long a command follows a slot that moves: one with a few thousand keys takes some 10 ms."""

_AGAIN_S: Final = 0.02
"""Between tries while the keys of a command lie on two nodes."""

_MOST_HOPS: Final = 16
"""Nodes that send a command to each other have not agreed yet; the next one finds out more."""

_REFRESH_S: Final = 0.2
"""Between two looks at the map, however many commands find it wrong."""

_EVERYWHERE: Final = frozenset(
    (
        *("KEYS", "DBSIZE", "FLUSHALL", "FLUSHDB", "CONFIG SET", "CONFIG RESETSTAT"),
        *("SCRIPT FLUSH", "CLIENT PAUSE", "CLIENT UNPAUSE", "BGREWRITEAOF"),
    )
)
"""Commands without a key that are meant for all primaries."""

_ANYWHERE: Final = frozenset(
    ("PING", "INFO", "PUBLISH", "CONFIG GET", "ACL WHOAMI", "CLUSTER INFO", "TIME", "WAIT")
)
"""Commands without a key that one node answers for all. (TIME for tests: nodes differ, see `ask_time`.)"""

_KEY_AT: Final = {"EVAL": 3, "EVALSHA": 3, "EVALSHA_RO": 3, "OBJECT": 2}

_SHARDED_SINCE: Final = 7
"""The first Redis with sharded channels, and EVALSHA_RO; Valkey says that it is Redis 7.2."""

_REDIRECTED: Final = (AskError, TryAgainError, NoScriptError)  # a MovedError is an AskError

_TIME: Final = lua("time")
_TIME_DIGEST: Final = hashlib.sha1(_TIME.encode(), usedforsecurity=False).hexdigest()

_ReplyT = TypeVar("_ReplyT")


def nodes(client: redis.Redis) -> list[redis.Redis]:
    """A client for each primary; of one server itself. Raises what redis-py does."""
    return client.primaries() if isinstance(client, ClusterClient) else [client]


def node_of(client: redis.Redis, key: str) -> redis.Redis:
    """A client for the node that has the slot of `key` as far as is known; of one server itself."""
    return client.node_of(key_slot(key.encode())) if isinstance(client, ClusterClient) else client


def is_cluster(client: redis.Redis) -> bool:
    """Whether keys of different models may lie on different nodes."""
    return isinstance(client, ClusterClient)


def doubt_map(client: redis.Redis) -> None:
    """Have a cluster's map looked at again before the next command: something is not where it was."""
    if isinstance(client, ClusterClient):
        client.doubt_map()


def has_sharded_channels(client: redis.Redis) -> bool:
    """Whether it is a cluster with SSUBSCRIBE. Asks once. Raises what redis-py does."""
    return isinstance(client, ClusterClient) and client.has_sharded_channels()


def ask_time(pipe: Pipeline, key: str) -> None:
    """Add a command that tells the time of the node that has `key`; `time_of` reads its reply.

    By a script, which follows the slot: TIME has no key, and a map that is a second old names another node.
    By one that only reads, where Redis has these: writes may be paused.
    """
    if isinstance(pipe, ClusterPipeline):
        pipe.execute_command(pipe.reading_script, _TIME_DIGEST, 1, key)  # type: ignore[no-untyped-call]
    else:
        pipe.time()


def time_of(reply: Sequence[bytes | int]) -> float:
    """Seconds since 1970."""
    seconds, microseconds = reply
    return int(seconds) + int(microseconds) / 1e6


def redis_time(client: redis.Redis, key: str) -> float:
    """The time of the node that has `key`. Raises what redis-py does."""
    with client.pipeline(transaction=False) as pipe:
        ask_time(pipe, key)
        return time_of(pipe.execute()[0])


def connect(url: str, one: Callable[[str], redis.Redis]) -> redis.Redis:
    """A client for the cluster of a `cluster://HOST:PORT,HOST:PORT` URL; nothing is sent yet.

    `one` makes the client of one node from its URL. Raises ValueError where that is not a URL.
    """
    parts = urlsplit(url)
    user, at, places = parts.netloc.rpartition("@")
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a Redis Cluster has the database 0 alone")

    def node(place: str) -> redis.Redis:
        return one(urlunsplit((SCHEMES[parts.scheme], f"{user}{at}{place}", "", parts.query, "")))

    first = {addresses.read(each, port=_PORT, what="HOST:PORT"): node(each) for each in places.split(",")}
    return ClusterClient(first, lambda address: node(str(address)))


@dataclass(slots=True)
class SlotMap:
    """Who has which slot, as a node said it, and as others corrected it since."""

    owners: dict[int, Address] = field(default_factory=dict)
    asked_at: float = float("-inf")
    is_right: bool = False
    """No node has contradicted it."""


class ClusterClient(redis.Redis):
    """Safe to share between threads. Its methods raise what redis-py does."""

    def __init__(
        self, first: dict[Address, redis.Redis], make_node: Callable[[Address], redis.Redis]
    ) -> None:
        super().__init__(connection_pool=next(iter(first.values())).connection_pool)
        self._nodes = dict(first)
        self._make_node = make_node
        self._map = SlotMap()
        self._asking = threading.Lock()
        self._texts: dict[str, str | bytes | memoryview] = {_TIME_DIGEST: _TIME}
        """Of scripts, by their digests."""
        self._is_sharded: bool | None = None
        self._torn: dict[int, tuple[float, float]] = {}
        """Slot whose keys lie on two nodes -> since when that is known, and when it was last seen."""

    def register_script(self, script: str | bytes | memoryview) -> Script:
        """A script that any node runs: one that does not know it yet is given its text."""
        made = super().register_script(script)
        self._texts[made.sha] = script
        return made

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        """Run a command on the node that has its key; one without a key on any, or on all primaries."""
        slot = slot_of(args)
        if slot is not None:
            return self.follow(slot, lambda node, asking: self._send(node, asking, args, options))
        if args[0] in _EVERYWHERE:
            return _joined([node.execute_command(*args, **options) for node in self.primaries()])  # type: ignore[no-untyped-call]
        if args[0] not in _ANYWHERE:
            raise ValueError(f"{args[0]} has no key: name the node that is meant. This is a bug")
        failure: redis.RedisError = redis.ConnectionError("no node answers")
        for node in self.primaries():
            try:
                return node.execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
        raise failure

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "ClusterPipeline":
        """Commands for any nodes, or a MULTI for one slot."""
        return ClusterPipeline(self, transaction, shard_hint)

    def pubsub(self, **kwargs: Any) -> PubSub:  # noqa: ANN401 - as redis-py has it
        """A subscription on one of the primaries, each of which hears every PUBLISH."""
        pubsub: PubSub = random.choice(self.primaries()).pubsub(**kwargs)  # type: ignore[no-untyped-call]
        return pubsub

    def close(self) -> None:
        """Close all connections."""
        for node in list(self._nodes.values()):
            node.close()

    def primaries(self) -> list[redis.Redis]:
        """A client for each node that has slots."""
        self._look()
        return [self._node_at(address) for address in sorted(set(self._map.owners.values()))]

    def has_sharded_channels(self) -> bool:
        """Whether its nodes know SSUBSCRIBE, as they said when they were first asked."""
        if self._is_sharded is None:
            version = str(self.info("server")["redis_version"])
            self._is_sharded = int(version.partition(".")[0]) >= _SHARDED_SINCE
        return self._is_sharded

    def doubt_map(self) -> None:
        """Look at the map again before the next command."""
        self._map.is_right = False

    def node_of(self, slot: int) -> redis.Redis:
        """The node that has a slot."""
        self._look()
        try:
            return self._node_at(self._map.owners[slot])
        except KeyError:
            self._map.is_right = False
            raise ClusterDownError(f"Hash slot {slot} is not served") from None

    def follow(self, slot: int, send: Callable[[redis.Redis, bool], _ReplyT]) -> _ReplyT:
        """The reply of `send`, which is given the node and whether to send ASKING first.

        Only what was not run is sent again: to the node that has the slot now, or is being given it.
        """
        node, asking = self.node_of(slot), False
        until, hops = time.monotonic() + PATIENCE_S, 0
        while True:
            try:
                return send(node, asking)
            except redis.RedisError as error:
                hops = hops + 1 if isinstance(error, AskError) else 0
                if hops > _MOST_HOPS:
                    raise TryAgainError("its nodes do not agree who has the slot") from error
                is_late = not hops and time.monotonic() >= until
                followed = None if is_late else self.redirected(slot, error, node)
                if followed is None:
                    raise
                node, asking = followed

    def redirected(
        self, slot: int, error: redis.RedisError, node: redis.Redis
    ) -> tuple[redis.Redis, bool] | None:
        """Where a command of this slot goes instead, and whether by ASKING; None: nowhere."""
        if isinstance(error, AskError):
            host = error.host or node.connection_pool.connection_kwargs["host"]
            address = Address(host, error.port)
            if isinstance(error, MovedError):
                self._map.owners[slot] = address
                self._map.is_right = False
            return self._node_at(address), not isinstance(error, MovedError)
        if isinstance(error, TryAgainError):
            time.sleep(_AGAIN_S)
            return self.node_of(slot), False
        if isinstance(error, redis.ConnectionError | redis.TimeoutError | ClusterDownError):
            self._map.is_right = False  # another may have its slots by now
        if str(error).startswith("UNBLOCKED"):  # BLPOP, on a primary that became a replica
            self._map.is_right = False
            return self.node_of(slot), False
        return None

    def is_torn_for_long(self, slot: int) -> bool:
        """Note that the keys of a command lie on two nodes, and tell whether that has lasted."""
        now = time.monotonic()
        since, seen = self._torn.get(slot, (now, now))
        self._torn[slot] = (since if now - seen < PATIENCE_S else now), now
        return now - self._torn[slot][0] >= PATIENCE_S

    def _send(self, node: redis.Redis, asking: bool, args: Sequence[Any], options: dict[str, Any]) -> Any:  # noqa: ANN401
        try:
            return _sent(node, asking, args, options)
        except NoScriptError:
            if args[1] not in self._texts:
                raise
            node.script_load(self._texts[args[1]])
            return _sent(node, asking, args, options)

    def _node_at(self, address: Address) -> redis.Redis:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes.setdefault(address, self._make_node(address))
        return node

    def _look(self) -> None:
        """Read the map, where it is wrong: one thread at a time, while others go on with what they have."""
        if self._map.is_right or (self._map.owners and time.monotonic() - self._map.asked_at < _REFRESH_S):
            return
        if not self._asking.acquire(blocking=not self._map.owners):
            return
        try:
            if not self._map.is_right and time.monotonic() - self._map.asked_at >= _REFRESH_S:
                self._read_map()
        finally:
            self._asking.release()
        if not self._map.owners:
            raise redis.ConnectionError("no node of the cluster answers")

    def _read_map(self) -> None:
        """Ask nodes until one answers, those first that have slots; keep the old map where none does."""
        failure: redis.RedisError | None = None
        known = set(self._map.owners.values())
        order = sorted(self._nodes, key=lambda address: (address not in known, random.random()))
        for address in order:
            node = self._nodes[address]
            try:
                ranges = node.execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = failure or error
                continue
            finally:
                self._map.asked_at = time.monotonic()
            owners = {}
            for first, last, primary, *_ in ranges:
                host = primary[0].decode() if primary[0] else address[0]
                owners.update(dict.fromkeys(range(first, last + 1), Address(host, int(primary[1]))))
            self._map = SlotMap(owners, time.monotonic(), is_right=bool(owners))
            return
        if failure is not None and not self._map.owners:
            raise failure


class ClusterPipeline(Pipeline):
    """Commands of any slots, or one MULTI. What fails on one node does not keep others from answering.

    Unlike a pipeline of one server's, `execute(raise_on_error=False)` returns lost connections, too: each in
    the place of every command of that node.
    """

    def __init__(self, client: ClusterClient, transaction: bool, shard_hint: str | None) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self._is_multi = transaction
        self._slot = 0
        self._watched: Pipeline | None = None
        """On the node of the keys that are watched."""
        self._asking = False

    @property
    def reading_script(self) -> str:
        """The command that runs a script which writes nothing; Redis 6.2 has no other than for all."""
        return "EVALSHA_RO" if self._client.has_sharded_channels() else "EVALSHA"

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        """Run a command at once, on the connection that watches. Raises WatchError where its slot moved."""
        if self._watched is None:
            self._slot = slot_of(args) or 0
            reply = self._client.follow(self._slot, lambda node, asking: self._watch(node, asking, args))
            self.watching = True
            return reply
        try:
            return self._at_once(self._watched, args, options)
        except (AskError, TryAgainError) as error:
            raise self._lost_watch(error) from error

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run all commands, and return their replies."""
        stack = self.command_stack
        try:
            if self._watched is not None:
                return self._execute_watched(self._watched, raise_on_error)
            if not stack:
                return []
            if self._is_multi:
                slot = next(slot for args, _ in stack if (slot := slot_of(args)) is not None)
                return self._client.follow(
                    slot, lambda node, asking: _multi(node, asking, stack, raise_on_error)
                )
            return self._execute_anywhere(raise_on_error)
        finally:
            self.reset()

    def reset(self) -> None:  # type: ignore[override]  # as Pipeline's, which is untyped
        """Forget all commands, and watch nothing."""
        watched, self._watched, self._asking = getattr(self, "_watched", None), None, False
        if watched is not None:
            watched.reset()
        self.watching = False
        super().reset()

    def _watch(self, node: redis.Redis, asking: bool, args: Sequence[Any]) -> Any:  # noqa: ANN401
        watched, self._asking = node.pipeline(transaction=True), asking
        try:
            reply = self._at_once(watched, args, {})
        except BaseException:
            watched.reset()
            raise
        self._watched = watched
        return reply

    def _at_once(self, watched: Pipeline, args: Sequence[Any], options: dict[str, Any]) -> Any:  # noqa: ANN401
        if self._asking:
            watched.immediate_execute_command("ASKING")  # type: ignore[no-untyped-call]
        return watched.immediate_execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def _execute_watched(self, watched: Pipeline, raise_on_error: bool) -> list[Any]:
        watched.command_stack, watched.explicit_transaction = self.command_stack, True
        try:
            if self._asking:
                watched.immediate_execute_command("ASKING")  # type: ignore[no-untyped-call]
            replies: list[Any] = watched.execute(raise_on_error)
        except (AskError, TryAgainError) as error:
            raise self._lost_watch(error) from error
        return replies

    def _lost_watch(self, error: AskError | TryAgainError) -> redis.RedisError:
        """What a caller is to hear: that it may begin again, unless that has not helped for long."""
        if isinstance(error, TryAgainError):
            if self._client.is_torn_for_long(self._slot):
                return error
            time.sleep(_AGAIN_S)
        elif isinstance(error, MovedError):
            self._client.redirected(self._slot, error, self._client.node_of(self._slot))
        return redis.WatchError("its slot has moved")

    def _execute_anywhere(self, raise_on_error: bool) -> list[Any]:
        stack = list(self.command_stack)
        replies: list[Any] = [None] * len(stack)
        places: dict[redis.Redis, list[int]] = defaultdict(list)
        for place, node in enumerate(self._places()):
            if isinstance(node, ClusterDownError):
                replies[place] = node
            else:
                places[node].append(place)
        for node, own in places.items():
            for place, reply in zip(own, self._batch(node, [stack[place] for place in own]), strict=True):
                replies[place] = reply
        has_moved = any(isinstance(reply, _REDIRECTED) for reply in replies)
        for place, reply in enumerate(replies):
            args, options = stack[place]
            if args[0] == "WAIT" and has_moved:
                replies[place] = 0  # it was told by a node that has not got it
            elif isinstance(reply, _REDIRECTED):
                try:
                    replies[place] = self._client.execute_command(*args, **options)
                except redis.RedisError as error:
                    replies[place] = error
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, redis.RedisError):
                    raise reply
        return replies

    def _places(self) -> Iterator[redis.Redis | ClusterDownError]:
        """The node of each command, or that there is none."""
        node: redis.Redis | None = None
        for args, _ in self.command_stack:
            slot = slot_of(args)
            try:
                if slot is not None:
                    node = self._client.node_of(slot)
                elif node is None or args[0] != "WAIT":  # which is about what was written before it
                    node = self._client.primaries()[0]
                yield node
            except ClusterDownError as error:
                yield error

    def _batch(self, node: redis.Redis, commands: list[tuple[Any, dict[str, Any]]]) -> list[Any]:
        with node.pipeline(transaction=False) as pipe:
            pipe.command_stack = [(args, dict(options)) for args, options in commands]
            try:
                return list(pipe.execute(raise_on_error=False))
            except (redis.ConnectionError, redis.TimeoutError) as error:
                self._client.redirected(0, error, node)
                return [error] * len(commands)


def slot_of(args: Sequence[Any]) -> int | None:
    """The slot of a command's first key; None where it has none."""
    name = args[0]
    at = _KEY_AT.get(name, 1)
    if name in _EVERYWHERE or name in _ANYWHERE or len(args) <= at:
        return None
    key = args[at]
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def _sent(node: redis.Redis, asking: bool, args: Sequence[Any], options: dict[str, Any]) -> Any:  # noqa: ANN401
    if not asking:
        return node.execute_command(*args, **options)  # type: ignore[no-untyped-call]
    with node.pipeline(transaction=False) as pipe:
        pipe.execute_command("ASKING")  # type: ignore[no-untyped-call]
        pipe.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return pipe.execute()[1]


def _multi(
    node: redis.Redis,
    asking: bool,
    stack: list[tuple[Any, dict[str, Any]]],
    raise_on_error: bool,
) -> list[Any]:
    """Run a MULTI on one node: whole, or not at all."""
    with node.pipeline(transaction=True) as pipe:
        if asking:
            pipe.immediate_execute_command("ASKING")  # type: ignore[no-untyped-call]  # it holds until EXEC
        pipe.command_stack = [(args, dict(options)) for args, options in stack]
        return list(pipe.execute(raise_on_error))


def _joined(replies: list[Any]) -> Any:  # noqa: ANN401 - as different as the commands
    """What all primaries say together."""
    if isinstance(replies[0], list):
        return [each for reply in replies for each in reply]
    if isinstance(replies[0], int) and not isinstance(replies[0], bool):
        return sum(replies)
    return replies[0]
