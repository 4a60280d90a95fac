"""How a frontend's waiting requests are woken: one subscription a process, many waiters.

Owns the subscribing thread and the table of who waits for which job. The results of jobs whose clients wait
come on the channel of their process; that of a job which is polled comes on the job's own channel, to which
a process subscribes while a poller waits. In a cluster with sharded channels the process has one for each
model, and a subscription on each primary. Keys are the truth and messages are hints: what has waited a
second, and all after a reconnection, is looked up in its result key, and later in its list as well.
"""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Final

import redis
from redis.client import PubSub
from redis.crc import key_slot

from broker import codec
from broker.cluster import doubt_map, has_sharded_channels, is_cluster, node_of, nodes
from broker.connection import refusal_code, translated
from broker.errors import BrokerUnavailable, InferenceFailed, MalformedMessage
from broker.keys import Keys, ModelKeys
from broker.lost_jobs import LOOK_S, JobSearch, QueuedJob
from broker.messages import Failure, Result
from broker.outage import Outage

_LOG = logging.getLogger(__name__)

REREAD_S: Final = 1.0
"""A lost notification costs a waiter at most about this long."""

DEAF_S: Final = 2.0
"""A subscription that not even a pong has come over for so long is replaced: one that a firewall has
forgotten looks like an idle one, and every answer would wait for REREAD_S."""

_RECONNECT_S: Final = 0.2

_LISTEN_S: Final = 0.25
"""How long one wait for a message lasts at most; between waits the thread looks at its other duties."""


@dataclass(slots=True)
class Waiter:
    """One job's place in the table; its thread sleeps here until the result is put in."""

    model: str
    job_id: str
    since: float
    is_enqueued: bool = False
    """Set once the job has been enqueued: before that Redis can't know of it."""
    is_polled: bool = False
    """Its result comes on the job's own channel."""
    queued: QueuedJob | None = None
    """Where it was enqueued; None: whoever waits for it can't enqueue it again."""
    look_s: float = LOOK_S
    """After so many seconds it is looked for there."""
    _result: Result | None = None
    _is_forgotten: bool = False
    _woken: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout_s: float) -> Result | None:
        """Sleep until the result is there, `timeout_s` at most; None when it did not come."""
        self._woken.wait(max(0.0, timeout_s))
        if self._result is None and not self._is_forgotten:
            self._woken.clear()  # after `wake`; a result that came meanwhile is seen below
        return self._result

    def wake(self) -> None:
        """End its thread's `wait` without a result: there is something else to look at."""
        self._woken.set()

    def put(self, result: Result) -> None:
        """Hand over the result and wake the waiter. A second one is ignored: the first was the answer."""
        if self._result is None:
            self._result = result
            self._woken.set()

    def mark_forgotten(self) -> None:
        """Redis knows nothing of the enqueued job any more: wake the waiter, to enqueue it again."""
        self._is_forgotten = True
        self._woken.set()

    def take_forgotten(self) -> bool:
        """Whether the job was marked forgotten since the last call; the waiter sleeps on then."""
        if not self._is_forgotten:
            return False
        self._is_forgotten = False
        if self._result is None:
            self._woken.clear()
        return True


class Replies:
    """The results that this process waits for. `start` before the first `expect`; `stop` ends its thread."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        frontend: str,
        *,
        reread_s: float = REREAD_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._redis = client
        self._is_cluster = is_cluster(client)
        self._keys = keys
        self._channel = keys.results_channel(frontend)
        self._search = JobSearch(client)
        self._reread_s = reread_s
        self._monotonic = monotonic
        self._waiters: dict[str, list[Waiter]] = {}
        """By job: several clients may poll the same one."""
        self._parts: set[ModelKeys] = set()
        """Models and shards that were ever waited for here: in a cluster each has a channel for this one."""
        self._flags: list[threading.Event] = []
        """Of the subscribing threads: what is waited for has changed. They look then, not at each message."""
        self._primaries: list[redis.Redis] = []
        """Of a cluster with sharded channels, while there is a thread for each."""
        self._listening: set[redis.Redis] = set()
        """Of these, or of the one Redis, those whose subscription stands."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._subscribed = threading.Event()
        self._outage = Outage(monotonic=monotonic)
        self._thread = threading.Thread(target=self._run, name="replies", daemon=True)
        self.frontend = frontend

    def start(self) -> None:
        """Start the subscribing thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; those who still wait find their results by their own last look."""
        self._stopping.set()
        if self._thread.is_alive():
            self._wake_threads()
            self._thread.join()

    def is_subscribed(self, timeout_s: float = 0.0) -> bool:
        """Whether the subscription stands, waiting up to `timeout_s` for it."""
        return self._subscribed.wait(timeout_s)

    def expect(self, model: str, job_id: str) -> Waiter:
        """Take a place in the table. Call it before the job is enqueued, and `forget` at the end."""
        waiter = Waiter(model, job_id, self._monotonic())
        with self._lock:
            self._waiters[job_id] = [*self._waiters.get(job_id, ()), waiter]
        if self._is_cluster:
            self._hear_from(self._keys.of(model, job_id))
        return waiter

    def follow(self, model: str, job_id: str) -> Waiter:
        """The same for a job that is polled, whoever enqueued it. Look it up afterwards: it may be done."""
        waiter = Waiter(model, job_id, self._monotonic(), is_enqueued=True, is_polled=True)
        with self._lock:
            self._waiters[job_id] = [*self._waiters.get(job_id, ()), waiter]
        self._tell_change()
        self._wake_threads()
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """Leave the table."""
        with self._lock:
            waiters = self._waiters.get(waiter.job_id, [])
            # By identity: waiters of the same job are equal.
            others = [other for other in waiters if other is not waiter]
            if others:
                self._waiters[waiter.job_id] = others
            else:
                self._waiters.pop(waiter.job_id, None)
        if waiter.is_polled:
            self._tell_change()

    def _hear_from(self, part: ModelKeys) -> None:
        """Subscribe to what comes from a part of a model's queue, once it is waited for, in a cluster."""
        if part not in self._parts:
            with self._lock:
                self._parts.add(part)
            if self._primaries:
                self._tell_change()
                self._wake_threads()

    def _wake_threads(self) -> None:
        with contextlib.suppress(redis.RedisError):  # a wake-up only: they look up by themselves soon
            self._redis.publish(self._channel, b"")

    def _run(self) -> None:
        """Listen; in a cluster with sharded channels on each primary, by a thread for each."""

        def listen() -> None:
            if not has_sharded_channels(self._redis):
                self._listen(self._redis)
            else:
                self._keep_listeners()

        self._keep(listen, lambda: True)

    def _keep(self, listen: Callable[[], None], is_wanted: Callable[[], bool]) -> None:
        """Have this thread listen, and again where that has failed, until it is not wanted any more."""
        while not self._stopping.is_set() and is_wanted():
            try:
                with translated("be subscribed to", waits=True):
                    listen()
            except BrokerUnavailable as error:
                self._subscribed.clear()
                self._outage.failed(error)
                doubt_map(self._redis)
                self._stopping.wait(_RECONNECT_S)
            except Exception:  # noqa: BLE001 - a thread that dies quietly would leave requests to their deadlines
                _LOG.exception("a replies thread failed; it goes on. This is a bug")
                self._stopping.wait(_RECONNECT_S)

    def _keep_listeners(self) -> None:
        """A thread for each primary that there is now, for as long as it is one."""
        threads: dict[redis.Redis, threading.Thread] = {}
        try:
            while not self._stopping.is_set():
                self._primaries = nodes(self._redis)
                for node in self._primaries:
                    if node not in threads or not threads[node].is_alive():
                        threads[node] = threading.Thread(
                            target=self._keep,
                            args=(partial(self._listen, node), partial(self._is_primary, node)),
                            name="replies-node",
                            daemon=True,
                        )
                        threads[node].start()
                self._stopping.wait(_LISTEN_S)
        finally:
            self._primaries = []
            for thread in threads.values():
                thread.join()

    def _is_primary(self, node: redis.Redis) -> bool:
        return node in self._primaries

    def _listen(self, node: redis.Redis) -> None:
        """Subscribe on a node, or on the one Redis, and hand over what comes; raise when that ends."""
        is_one = node is self._redis
        self._subscribed.clear()
        with node.pubsub() as pubsub, self._changes(node) as changed:  # type: ignore[no-untyped-call]
            pubsub.subscribe(self._channel)
            reread_at = 0.0
            heard_at = self._monotonic()
            subscriptions = Subscriptions(pubsub, is_sharded=not is_one)
            while not self._stopping.is_set() and (is_one or self._is_primary(node)):
                if changed.is_set():
                    changed.clear()
                    subscriptions.want(self._wanted(node))
                message = None
                try:
                    message = pubsub.get_message(timeout=_LISTEN_S)
                except redis.exceptions.MovedError as error:
                    # A channel's slot is elsewhere: it is wanted again with the next look.
                    subscriptions.forget(error.slot_id)
                    doubt_map(self._redis)
                except redis.ResponseError as error:
                    if refusal_code(error) != "MISCONF":
                        raise
                    # With its disk full Redis refuses pings, too: it answers, and that is what they ask.
                    heard_at = self._monotonic()
                if message is not None:
                    heard_at = self._monotonic()
                    self._take(message, subscriptions, node)
                if self._monotonic() >= reread_at:
                    reread_at = self._monotonic() + self._reread_s / 2
                    if self._monotonic() - heard_at > max(DEAF_S, 2 * self._reread_s):
                        raise BrokerUnavailable("Redis does not answer pings on the subscription.")
                    pubsub.ping()
                    if not is_one:
                        changed.set()  # a slot may have moved
                    self._reread(node, waiting_since=self._monotonic() - self._reread_s)

    def _take(self, message: dict[str, Any], subscriptions: "Subscriptions", node: redis.Redis) -> None:
        """Act on what came over a subscription."""
        match message["type"]:
            case "subscribe" | "ssubscribe":
                # What was published before now is lost; whoever waits is looked up.
                job_id = subscriptions.channels.get(_channel_of(message))
                self._reread(node, waiting_since=self._monotonic(), job_id=job_id or None)
                self._listening.add(node)
                if len(self._listening) >= len(self._primaries):
                    self._subscribed.set()
                self._outage.succeeded()
            case "sunsubscribe" if _channel_of(message) in subscriptions.channels:
                # Nobody asked for that: the slot has moved, and its messages with it.
                subscriptions.channels.pop(_channel_of(message))
                doubt_map(self._redis)
                self._tell_change()
            case "message" | "smessage" if message["data"]:
                self._deliver(message["data"])

    @contextlib.contextmanager
    def _changes(self, node: redis.Redis) -> Iterator[threading.Event]:
        """A flag that is set where the thread of a node should see what is waited for: set at first.

        Afterwards no subscription stands there.
        """
        flag = threading.Event()
        flag.set()
        self._flags.append(flag)
        try:
            yield flag
        finally:
            self._flags.remove(flag)
            self._listening.discard(node)

    def _tell_change(self) -> None:
        for flag in list(self._flags):
            flag.set()

    def _wanted(self, node: redis.Redis) -> dict[str, str]:
        """The channels to be subscribed to, besides the frontend's: channel -> the polled job, or empty.

        Of those that are sharded the ones of models that this node has.
        """
        with self._lock:
            polled = [
                (self._keys.of(waiters[0].model, job_id), job_id)
                for job_id, waiters in self._waiters.items()
                if any(waiter.is_polled for waiter in waiters)
            ]
            waited_for = set(self._parts)
        if node is self._redis:
            return {self._keys.results_channel(job_id): job_id for _, job_id in polled}
        parts = waited_for | {part for part, _ in polled}
        own = {part for part in parts if self._is_at(node, part)}
        return {part.results_channel_prefix + self.frontend: "" for part in waited_for & own} | {
            part.results_channel_prefix + job_id: job_id for part, job_id in polled if part in own
        }

    def _is_at(self, node: redis.Redis, part: ModelKeys) -> bool:
        try:
            return node_of(self._redis, part.workers) is node
        except redis.RedisError:
            return False

    def _reread(self, node: redis.Redis, *, waiting_since: float, job_id: str | None = None) -> None:
        """Look up the results of everything that has waited since then or longer, or of one job.

        Of the models that this node has: one that is away keeps no other's results from those who wait.
        """
        by_slot: dict[ModelKeys, list[Waiter]] = defaultdict(list)
        with self._lock:
            all_waiters = self._waiters.values() if job_id is None else [self._waiters.get(job_id, [])]
            for waiter in chain.from_iterable(all_waiters):
                if waiter.is_enqueued and waiter.since <= waiting_since:
                    by_slot[self._keys.of(waiter.model, waiter.job_id)].append(waiter)
        for keys, waiters in by_slot.items():
            if node is not self._redis and not self._is_at(node, keys):
                continue
            values = self._redis.mget([keys.result(waiter.job_id) for waiter in waiters])
            pending = []
            for waiter, value in zip(waiters, values, strict=True):
                if value is None:
                    # Pending keys outlive their deadline: a killed Redis came back without its last writes.
                    waiter.mark_forgotten()
                elif isinstance(value, bytes) and not value.startswith(codec.PENDING):
                    self._deliver(value, waiter)
                else:
                    pending.append(waiter)
            self._look_for(keys, pending)

    def _look_for(self, keys: ModelKeys, pending: list[Waiter]) -> None:
        """Look whether jobs that have waited for long are where they were enqueued, all in one round trip."""
        now, suspects = self._monotonic(), list[tuple[Waiter, QueuedJob]]()
        for waiter in pending:
            if waiter.queued is not None and now - waiter.since >= waiter.look_s:
                waiter.look_s *= 2
                suspects.append((waiter, waiter.queued))
        if not suspects:
            return
        # A key of a wrong type is one model's trouble, and is said where it is written.
        with contextlib.suppress(redis.ResponseError):
            missing = self._search.missing(keys, [job for _, job in suspects])
            for waiter, job in suspects:
                if job.job_id in missing:
                    waiter.mark_forgotten()

    def _deliver(self, payload: bytes, waiter: Waiter | None = None) -> None:
        """Hand a result to `waiter`, or to all of its job; one that can't be read ends the wait too."""
        result: Result | None = None
        try:
            result = codec.decode(payload, Result)
        except MalformedMessage as error:
            _LOG.error("a result can't be read: %s", error.detail)
        waiters = [waiter] if waiter is not None else []
        if waiter is None:
            job_id = result.id if result else str(_id_in(payload), "latin-1")
            with self._lock:
                waiters = self._waiters.get(job_id, [])
        for each in waiters:
            each.put(result or _unreadable(each))


class Subscriptions:
    """The channels of one connection, besides the one that it begins with."""

    def __init__(self, pubsub: PubSub, *, is_sharded: bool) -> None:
        self.channels: dict[str, str] = {}
        """Channel -> the job that is polled, or empty."""
        self._pubsub = pubsub
        self._is_sharded = is_sharded

    def forget(self, slot: int) -> None:
        """The channels of this slot are not subscribed to."""
        for channel in [each for each in self.channels if key_slot(each.encode()) == slot]:
            del self.channels[channel]

    def want(self, wanted: dict[str, str]) -> None:
        """Subscribe to these channels, and to no others."""
        added, left = wanted.keys() - self.channels.keys(), self.channels.keys() - wanted.keys()
        self.channels = wanted
        if not self._is_sharded:
            if added:
                self._pubsub.subscribe(*added)
            if left:
                self._pubsub.unsubscribe(*left)  # type: ignore[no-untyped-call]
            return
        # One by one: the channels of one command must lie in one slot.
        for channel in added:
            self._pubsub.ssubscribe(channel)
        for channel in left:
            self._pubsub.sunsubscribe(channel)  # type: ignore[no-untyped-call]


def _channel_of(message: dict[str, Any]) -> str:
    """The channel that a subscription's message is about."""
    return str(message["channel"], "ascii")


def _id_in(payload: bytes) -> bytes:
    """The id that a result's JSON begins with, whatever comes after it."""
    return payload[codec.ID_START : codec.ID_START + codec.ID_LENGTH + 1].partition(b'"')[0]


def _unreadable(waiter: Waiter) -> Result:
    """Nothing better will come: at its deadline the waiter would find the same."""
    failure = Failure(
        InferenceFailed.code, "The model server's answer can't be read; this service's log says why."
    )
    return Result(id=waiter.job_id, model=waiter.model, model_version="", error=failure)
