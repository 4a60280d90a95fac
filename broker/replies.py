"""How a frontend's waiting requests are woken: one subscription a process, many waiters.

Owns the subscribing thread and the table of who waits for which job. The results of jobs whose clients wait
come on the channel of their process; that of a job which is polled comes on the job's own channel, to which
a process subscribes while a poller waits. Keys are the truth and messages are hints: what has waited a
second, and all after a reconnection, is looked up in its result key, and later in its list as well.
"""

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import redis
from redis.client import PubSub

from broker import codec
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
        return self._result

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
        self._keys = keys
        self._channel = keys.results_channel(frontend)
        self._search = JobSearch(client)
        self._reread_s = reread_s
        self._monotonic = monotonic
        self._waiters: dict[str, list[Waiter]] = {}
        """By job: several clients may poll the same one."""
        self._polled_changed = threading.Event()
        """Set where the subscribing thread should see which jobs are polled: not at each message."""
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
            self._wake_thread()
            self._thread.join()

    def is_subscribed(self, timeout_s: float = 0.0) -> bool:
        """Whether the subscription stands, waiting up to `timeout_s` for it."""
        return self._subscribed.wait(timeout_s)

    def expect(self, model: str, job_id: str) -> Waiter:
        """Take a place in the table. Call it before the job is enqueued, and `forget` at the end."""
        return self._add(Waiter(model, job_id, self._monotonic()))

    def follow(self, model: str, job_id: str) -> Waiter:
        """The same for a job that is polled, whoever enqueued it. Look it up afterwards: it may be done."""
        waiter = self._add(Waiter(model, job_id, self._monotonic(), is_enqueued=True, is_polled=True))
        self._polled_changed.set()
        self._wake_thread()
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
            self._polled_changed.set()

    def _add(self, waiter: Waiter) -> Waiter:
        with self._lock:
            self._waiters[waiter.job_id] = [*self._waiters.get(waiter.job_id, ()), waiter]
        return waiter

    def _wake_thread(self) -> None:
        with contextlib.suppress(redis.RedisError):  # a wake-up only: it looks up by itself soon
            self._redis.publish(self._channel, b"")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with translated("be subscribed to", waits=True):
                    self._listen()
            except BrokerUnavailable as error:
                self._outage.failed(error)
                self._subscribed.clear()
                self._stopping.wait(_RECONNECT_S)
            except Exception:  # noqa: BLE001 - a thread that dies quietly would leave requests to their deadlines
                _LOG.exception("the replies thread failed; it goes on. This is a bug")
                self._stopping.wait(_RECONNECT_S)

    def _listen(self) -> None:
        with self._redis.pubsub() as pubsub:  # type: ignore[no-untyped-call]
            pubsub.subscribe(self._channel)
            reread_at = 0.0
            heard_at = self._monotonic()
            polled: dict[str, str] = {}
            self._polled_changed.set()
            while not self._stopping.is_set():
                if self._polled_changed.is_set():
                    self._polled_changed.clear()
                    polled = self._subscribe_to_polled(pubsub, polled)
                message = None
                try:
                    message = pubsub.get_message(timeout=_LISTEN_S)
                except redis.ResponseError as error:
                    if refusal_code(error) != "MISCONF":
                        raise
                    # With its disk full Redis refuses pings, too: it answers, and that is what they ask.
                    heard_at = self._monotonic()
                if message is not None:
                    heard_at = self._monotonic()
                if message is not None and message["type"] == "subscribe":
                    # What was published before now is lost; whoever waits is looked up.
                    self._reread(waiting_since=self._monotonic(), job_id=polled.get(_channel_of(message)))
                    self._subscribed.set()
                    self._outage.succeeded()
                elif message is not None and message["type"] == "message" and message["data"]:
                    self._deliver(message["data"])
                if self._monotonic() >= reread_at:
                    reread_at = self._monotonic() + self._reread_s / 2
                    if self._monotonic() - heard_at > max(DEAF_S, 2 * self._reread_s):
                        raise BrokerUnavailable("Redis does not answer pings on the subscription.")
                    pubsub.ping()
                    self._reread(waiting_since=self._monotonic() - self._reread_s)

    def _subscribe_to_polled(self, pubsub: PubSub, subscribed: dict[str, str]) -> dict[str, str]:
        """Subscribe to the channels of the jobs that are polled now, and to no others: channel -> job."""
        with self._lock:
            polled = {
                self._keys.results_channel(job_id): job_id
                for job_id, waiters in self._waiters.items()
                if any(waiter.is_polled for waiter in waiters)
            }
        if added := polled.keys() - subscribed.keys():
            pubsub.subscribe(*added)
        if left := subscribed.keys() - polled.keys():
            pubsub.unsubscribe(*left)  # type: ignore[no-untyped-call]
        return polled

    def _reread(self, *, waiting_since: float, job_id: str | None = None) -> None:
        """Look up the results of everything that has waited since then or longer, or of one job."""
        by_slot: dict[ModelKeys, list[Waiter]] = defaultdict(list)
        with self._lock:
            all_waiters = self._waiters.values() if job_id is None else [self._waiters.get(job_id, [])]
            for waiter in chain.from_iterable(all_waiters):
                if waiter.is_enqueued and waiter.since <= waiting_since:
                    by_slot[self._keys.of(waiter.model).of_job(waiter.job_id)].append(waiter)
        for keys, waiters in by_slot.items():
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
