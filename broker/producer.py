"""The web tier's half of the queue: enqueue a job, cancel it, read its result.

Owns the one MULTI that accepts a job, once for each name that a client gives a request, and what admission
judges by (admission.py). It never waits; replies.py does.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, cast

import redis
from msgspec import UNSET
from redis.client import Pipeline

from broker import admission, channels, codec
from broker.clock import RedisClock, share_steps
from broker.cluster import ask_time, time_of
from broker.connection import translated
from broker.errors import BrokerUnavailable, IdempotencyKeyReused, MalformedMessage
from broker.history import HistoryStore
from broker.job_ids import JobIds
from broker.keys import Keys, ModelKeys, shard_of
from broker.lanes import LaneReader, QueueLengths
from broker.lease import ring
from broker.lost_jobs import LostJobs
from broker.messages import Job, Pace, Result, Webhook
from broker.outage import Outage
from broker.queue_depths import QueueDepths
from broker.scripts import lua
from broker.shards import ShardMap
from broker.webhooks import WebhookStore

_LOG = logging.getLogger(__name__)

_NOTE_S: Final = 1.0
"""How often it is noted that a model is asked: one command more, in a MULTI that is sent anyway."""

_LANES_S: Final = 60.0
"""For so long after an owner's job those of nobody in particular are admitted by what Redis says alone: the
last push tells nothing of the lanes."""

_MOST_LANES: Final = 1024
"""Lanes whose lengths are remembered."""

_NO_LENGTHS: Final = (-math.inf, QueueLengths(0, 0))

REPLICAS_WAIT_MS: Final = 500
"""Within the web tier's time-out for a reply. A replica that is well has a job in about a millisecond."""

_NAMING_S: Final = 15
"""Between the name of a job in a shard and its place in the queue: two round trips of a second at most."""

_NAME_MARGIN_S: Final = 60
"""A name outlives the latest end of its job's result. Without the result it says nothing."""


@dataclass(frozen=True, slots=True)
class RequestName:
    """What a client calls a request, so that the same again is the same job."""

    name: str
    digest: str
    """Of what is asked: another under the same name is refused. Without spaces."""
    is_shared: bool = False
    """No client's own name, but that of whoever asks the same (web/cached_inference.py)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may hold, for how long its keys live, and how many replicas must have a polled job."""

    queue_jobs: int
    queue_bytes: int
    result_ttl_s: int
    key_ttl_s: int
    replicas: int = 0


class Producer:
    """Puts jobs into the queues of any model. Safe to share between threads.

    Every method raises BrokerUnavailable when Redis is away, within the client's time-out. That it refuses
    jobs, or does not answer, is reported to `refusals`, if given; replies.py reports that Redis is away.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        limits: Limits,
        *,
        clock: RedisClock | None = None,
        refusals: Outage | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        shards: ShardMap | None = None,
    ) -> None:
        self._redis = client
        self._shards = shards or ShardMap()
        self.history = HistoryStore(client, keys)
        """The samples of the last hour."""
        self._keys = keys
        self._limits = limits
        self.result_ttl_s = limits.result_ttl_s
        """For so long after its deadline the result of a job is kept at most."""
        self._clock = clock or RedisClock()
        self.depths = QueueDepths(client, keys, self._clock, self._shards)
        """What the queues hold, for metrics."""
        self._refusals = refusals
        self._monotonic = monotonic
        self._last_lengths: dict[tuple[str, str], tuple[float, QueueLengths]] = {}
        """By model and lane, when and what Redis last told of the queue. Without a lane that is from the last
        push of a job whose client waits, and counts no others."""
        self._lanes_at: dict[str, float] = {}
        """When a job with a lane last came here for a model."""
        self._lanes = LaneReader(client)
        self._noted_at: dict[str, float] = {}
        """When it was last noted that a model was asked."""
        self.ids = JobIds(client, keys, self._clock, monotonic=monotonic, shards=self._shards)
        """Makes the ids of jobs."""
        self.lost = LostJobs(
            client, keys, self._clock, self.ids, result_ttl_s=limits.result_ttl_s, monotonic=monotonic
        )
        """What became of polled jobs that are no more."""
        self.webhooks = WebhookStore(
            client,
            keys,
            self._clock,
            key_ttl_s=limits.key_ttl_s,
            result_ttl_s=limits.result_ttl_s,
            shards=self._shards,
        )
        self._finish_script = client.register_script(lua("webhook_due", "finish"))

    def admit(
        self, model: str, *, size: int, timeout_s: float, pace: Pace, polled: bool = False, lane: str = ""
    ) -> None:
        """Refuse a job of `size` bytes that the queue has no room for, before it costs a decoding.

        Also one that would not be answered within `timeout_s`, at the pace that the workers have:
        accepted, it would take the model's time from those that can be answered, and end as a 504. While
        nothing of its kind is queued every job is let in, so that a wrong rate is measured again.
        With a lane it is judged by its fair share, and its owner leaves room for others.

        All jobs of a model have about the same size, so their number times this one's is the sum. Threads
        that ask at the same moment may each be let in: the queue overshoots by one a web thread at most.
        Raises Overloaded.
        """
        room = min(self._limits.queue_jobs, self._limits.queue_bytes // size)
        now = self._monotonic()
        if lane and not polled:
            self._lanes_at[model] = now
            self._last_lengths.pop((model, ""), None)
        told_at, told = self._last_lengths.get((model, lane), _NO_LENGTHS)
        if not polled and now - told_at < admission.LENGTH_VALID_S:
            length = told.total if lane else told.waiting
            is_believed = admission.is_believed(length, age_s=now - told_at, room=room)
            if is_believed and admission.is_in_time(told, pace, timeout_s=timeout_s):
                return

        is_split = model in self._shards.split
        parts = self._shards.parts(self._keys, model) if is_split else (self._keys.of(model),)
        with self._reported(model), translated("measure a queue", self._redis, parts[-1].types):
            lengths = self._lanes.lengths(parts, lane)
        if lane:
            if len(self._last_lengths) >= _MOST_LANES:
                self._last_lengths.clear()
            self._last_lengths[model, lane] = self._monotonic(), lengths
        admission.judge(model, lengths, pace, room=room, timeout_s=timeout_s, polled=polled, lane=lane)

    def note_refused(self, model: str) -> None:
        """A picture came for a model that has no worker, and can't be queued: an autoscaler is to know."""
        with contextlib.suppress(BrokerUnavailable):  # the refusal says all that its client can use
            self._note_asked(self._keys.of(model))

    def enqueue(
        self, model: str, job: Job, name: RequestName | None = None, webhook: Webhook | None = None
    ) -> str:
        """Accept the job, in one MULTI: its result is pending, it stands in the queue, the bell rings.

        And `webhook` will announce its end. Returns its id; where `name` has a job already, that one's, and
        nothing is enqueued. A job for which no thread waits is cancelled and BrokerUnavailable raised, unless
        enough replicas have it in time. Raises IdempotencyKeyReused.
        """
        payload = codec.encode_job(job)
        try:
            job_id = self._push(model, job, payload, name, webhook)
        except BrokerUnavailable as error:
            job_id = self._push_again(error, model, job, payload, name, webhook)
        if job.polled and job.reply_to is None:
            self._await_replicas(model, job_id, is_own=job_id == job.id, has_webhook=webhook is not None)
        return job_id

    def cancel(self, model: str, job_id: str, *, has_webhook: bool = False) -> bool:
        """Nobody wants the result any more: a worker that has not begun the job drops it.

        `has_webhook`: it may have one, which says nothing any more. Returns whether there was such a job, its
        result, or a webhook that was not delivered.
        """
        # The webhook first: one without its job would say that the deadline passed.
        was_announced = has_webhook and self.webhooks.end(model, job_id)
        with self._reported(model), translated("cancel a job"):
            return bool(self._redis.delete(self._keys.result(model, job_id))) or was_announced

    def is_known(self, model: str, job_id: str) -> bool:
        """Whether the job is pending or has its result: not once it was cancelled."""
        with self._reported(model), translated("look up a job"):
            return bool(self._redis.exists(self._keys.result(model, job_id)))

    def begin(
        self,
        model: str,
        job_id: str,
        *,
        time_s: float,
        name: RequestName | None = None,
        callback_url: str = "",
        request_id: str = "",
        owner: str = "",
    ) -> str:
        """Make the result of a job pending that no queue holds: of a pipeline, for a client that polls.

        `time_s` are the seconds until its deadline. Returns, awaits replicas and raises as `enqueue` does.
        """
        now, begun = self._clock.of(model).now(), None
        value = codec.encode_pending(now, now + time_s, owner)
        with self._reported(model), translated("take a job"):
            while begun is None:
                with self._redis.pipeline(transaction=True) as pipe, contextlib.suppress(redis.WatchError):
                    begun = self._take_name(pipe, model, name, job_id, time_s) if name else None
                    if begun is None:
                        pipe.set(self._keys.result(model, job_id), value, ex=self._limits.key_ttl_s)
                        if callback_url:
                            times = now, now + time_s
                            webhook = Webhook(callback_url, *times, request_id, owner=owner or UNSET)
                            self.webhooks.add(pipe, model, job_id, webhook)
                        pipe.execute()
                        begun = job_id
        self._await_replicas(model, begun, is_own=begun == job_id, has_webhook=bool(callback_url))
        return begun

    def finish(self, result: Result) -> None:
        """Write the result of a job that `begin` announced, unless it was cancelled."""
        keys, ttl_ms = self._keys.of(result.model, result.id), self._limits.result_ttl_s * 1000
        with translated("take a result"):
            told = channels.of_part(self._redis, self._keys, keys)
            self._finish_script(
                keys=[keys.result(result.id), keys.webhooks, keys.undelivered],
                args=[codec.encode(result), ttl_ms, told.prefix + result.id, result.id, told.command],
            )

    def take_or_cancel(self, model: str, job_id: str, *, is_polled: bool = False) -> Result | None:
        """At the deadline: the result if it is there after all, else None and the job is cancelled.

        `is_polled`: its client may ask again, and is not to be told that the job is lost.
        """
        with self._reported(model), translated("look up a result"):
            if is_polled:
                value = self.lost.remove(model, job_id)
            else:
                value = cast("bytes | None", self._redis.getdel(self._keys.result(model, job_id)))
        with self._reported(model):
            if value is None or codec.decode_pending(_bytes(value)) is not None:
                return None
            return codec.decode(_bytes(value), Result)

    def named(self, model: str, name: RequestName) -> str | None:
        """The id of the job that a client named so; None if there is none, or none any more.

        Raises IdempotencyKeyReused.
        """
        with self._reported(model), translated("look up a request"), self._redis.pipeline() as pipe:
            return self._take_name(pipe, model, name)

    def delete(self, model: str, job_id: str, *, owner: str = "") -> bool:
        """Cancel a polled job of `owner`, or drop its result and its webhook; return whether there was one.

        Nothing of another's changes: a job's owner never does, so what was looked up still holds.
        """
        keys = self._keys.of(model, job_id)
        with translated("look up a job"), self._redis.pipeline(transaction=False) as pipe:
            pipe.get(keys.result(job_id))
            pipe.hget(keys.callbacks, job_id)
            stored, callback = pipe.execute()
        values = [value for value in (stored, callback) if value is not None]
        if not values or any(codec.owner_of(value) != owner for value in values):
            return False
        # The webhook first, as in `cancel`.
        was_announced = callback is not None and self.webhooks.end(model, job_id)
        with self._reported(model):
            return self.lost.remove(model, job_id) is not None or was_announced

    def poll(self, model: str, job_id: str) -> "Result | PendingJob | None":
        """For a client that polls: the result, PendingJob, or None when there is none (any more)."""
        stored = self.look_up(model, job_id)
        return stored.state if stored is not None else None

    def look_up(self, model: str, job_id: str, *, owner: str = "") -> "StoredJob | None":
        """The same, and when it expires. A job that is not `owner`'s is as if it did not exist."""
        key, clock = self._keys.result(model, job_id), self._clock.of(model)
        # A shard of a cluster may be on a node with another clock than the model's.
        asks_time = shard_of(job_id) is None or clock.model == ""
        # No MULTI: a full Redis refuses it.
        with (
            self._reported(model),
            translated("look up a result"),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            sent = clock.monotonic()
            if asks_time:
                ask_time(pipe, key)
            pipe.get(key)
            pipe.pttl(key)
            *time, value, left_ms = pipe.execute()
        if time:
            clock.sync(time_of(time[0]), sent=sent, received=clock.monotonic())
        if clock.has_news:
            share_steps(self._redis, self._keys, clock)
        if value is None or codec.owner_of(value) != owner:
            return None
        now = clock.now()
        with self._reported(model):
            pending = codec.decode_pending(value)
            if pending is None:
                return StoredJob(codec.decode(value, Result), now + max(0, left_ms) / 1000)
        accepted_at, deadline = pending
        left_s = deadline + clock.shift_s(accepted_at) - now
        state = PendingJob(left_s <= 0, left_s, codec.polled_lane(value))
        return StoredJob(state, now + left_s + self.result_ttl_s)

    def age_s(self, model: str, stored: "StoredJob") -> float:
        """Seconds since the result of a job of this model came."""
        return self._limits.result_ttl_s - (stored.expires_at - self._clock.of(model).now())

    def check_writable(self) -> None:
        """Raise BrokerUnavailable if Redis takes no writes: it is full, or a replica. Leaves no key behind.

        SETRANGE of nothing on a key that is not there changes nothing, but is refused as a write is.
        """
        with self._reported(""), translated("take a write"):
            self._redis.setrange(self._keys.probe, 0, "")
        if self._refusals is not None:
            self._refusals.succeeded(who=self)

    def _push_again(
        self,
        error: BrokerUnavailable,
        model: str,
        job: Job,
        payload: bytes,
        name: RequestName | None,
        webhook: Webhook | None,
    ) -> str:
        """Enqueue it where only the reply got lost, and not the job; else raise `error`."""
        if error.is_refusal:
            # A key of a wrong type fails inside the MULTI, whose other commands are done all the same.
            with contextlib.suppress(BrokerUnavailable):
                self.cancel(model, job.id, has_webhook=webhook is not None)
            raise error
        if name is not None and shard_of(job.id) is not None:
            # Its key was there before it was queued. Without that it is not run, and its name is free.
            self.cancel(model, job.id, has_webhook=webhook is not None)
            raise error
        # MULTI is whole or not at all, so its key tells. Were the first still on its way, two copies would
        # run, and the client get one answer.
        if not self.is_known(model, job.id):
            return self._push(model, job, payload, name, webhook)
        return job.id

    def _await_replicas(self, model: str, job_id: str, *, is_own: bool, has_webhook: bool) -> None:
        """Return once so many replicas have the job as the settings want. Raises BrokerUnavailable."""
        if not self._limits.replicas:
            return
        try:
            with self._reported(model):
                self._count_replicas(model, job_id)
        except BrokerUnavailable:
            # Its client is told to come back, and would have two.
            if is_own:
                with contextlib.suppress(BrokerUnavailable):
                    self.cancel(model, job_id, has_webhook=has_webhook)
            raise

    def _count_replicas(self, model: str, job_id: str) -> None:
        keys, wanted = self._keys.of(model, job_id), self._limits.replicas
        with translated("copy a job to replicas"), self._redis.pipeline(transaction=False) as pipe:
            # WAIT is about what its own connection wrote. What comes after the job in the stream of changes
            # is with no replica that does not have the job; and it is asked of the server that has it.
            pipe.set(keys.asked, self._clock.of(model).now(), ex=self._limits.key_ttl_s)
            pipe.exists(keys.result(job_id))
            pipe.wait(wanted, REPLICAS_WAIT_MS)
            _, is_known, reached = pipe.execute()
        if not is_known:
            raise BrokerUnavailable("Redis has lost a job in a fail-over before a replica had it.")
        if reached < wanted:
            raise BrokerUnavailable(
                f"Redis can't copy a job to replicas: {reached} of {wanted} (REDIS_REPLICAS) had it within "
                f"{REPLICAS_WAIT_MS} ms.",
                is_refusal=True,
            )

    def _push(
        self, model: str, job: Job, payload: bytes, name: RequestName | None, webhook: Webhook | None
    ) -> str:
        """Enqueue it, unless `name` has a job already. Returns the id of the one that counts."""
        keys, key_ttl_s = self._keys.of(model, job.id), self._limits.key_ttl_s
        own = keys if keys.shard is None else self._keys.of(model)
        queue, where = (keys.polled, codec.POLLED) if job.polled else (keys.queue, codec.QUEUED)
        pending = codec.encode_pending(job.accepted_at, job.deadline, job.lane, where=where)
        if job.lane:
            queue = keys.lane(job.lane, polled=job.polled)
        if keys is not own:
            if name and (job_before := self._name_first(model, job, name)):
                return job_before
            name = None
            self._note_asked(own)
        now, length = self._monotonic(), None
        is_noted = now - self._noted_at.get(model, -math.inf) < _NOTE_S
        with self._reported(model), translated("take a job", self._redis, keys.types):
            while length is None:
                # WatchError: another request has just taken the name.
                with self._redis.pipeline(transaction=True) as pipe, contextlib.suppress(redis.WatchError):
                    time_s = job.deadline - job.accepted_at
                    if name and (job_before := self._take_name(pipe, model, name, job.id, time_s)):
                        return job_before
                    # Not until its deadline alone: Redis' clock may step, and the key must outlive that.
                    if webhook:
                        self.webhooks.add(pipe, model, job.id, webhook)
                    pipe.set(keys.result(job.id), pending, ex=key_ttl_s)
                    if not is_noted and keys is own:
                        self._noted_at[model] = now
                        pipe.set(own.asked, self._clock.of(model).now(), ex=key_ttl_s)
                    if job.lane:
                        turns = keys.polled_turns if job.polled else keys.turns
                        pipe.zadd(turns, {job.lane: 0}, nx=True)  # a claim says when its turn is
                        pipe.expire(turns, key_ttl_s)
                    pipe.rpush(queue, payload)
                    pipe.expire(queue, key_ttl_s)
                    ring(pipe, keys, ttl_s=key_ttl_s)
                    length = int(pipe.execute()[-5])
        if self._refusals is not None:
            self._refusals.succeeded(model, who=self)
        if not (job.polled or job.lane) and now - self._lanes_at.get(model, -math.inf) >= _LANES_S:
            if keys is not own:  # of one shard: jobs are spread at random, so each has about as many
                length *= self._shards.count(model)
            told = QueueLengths(length, self._limits.queue_jobs, waiting_before=length)
            self._last_lengths[model, ""] = self._monotonic(), told
        return job.id

    def _note_asked(self, keys: ModelKeys) -> None:
        """Note that a model is asked, where no MULTI does: once in _NOTE_S."""
        now = self._monotonic()
        if now - self._noted_at.get(keys.model, -math.inf) >= _NOTE_S:
            self._noted_at[keys.model] = now
            with self._reported(keys.model), translated("note a request", self._redis, keys.types):
                self._redis.set(keys.asked, self._clock.of(keys.model).now(), ex=self._limits.key_ttl_s)

    def _name_first(self, model: str, job: Job, name: RequestName) -> str | None:
        """Give a job that will stand in a shard its name, unless another has it: then return that one's id.

        The name is not in the shard's slot, so no MULTI takes both; nor is it in a shard that its own text
        would choose: after a change of their number it would be looked for in another. So the job's result
        is pending before it is named, and whoever finds the name finds its job. Should this process end here,
        both are gone in _NAMING_S.
        """
        key, time_s = self._keys.result(model, job.id), job.deadline - job.accepted_at
        pending = codec.encode_pending(job.accepted_at, job.deadline, job.owner)  # in no list yet
        with self._reported(model), translated("take a name", self._redis, self._keys.of(model).types):
            self._redis.set(key, pending, ex=_NAMING_S)
            while True:
                with self._redis.pipeline(transaction=True) as pipe, contextlib.suppress(redis.WatchError):
                    if job_before := self._take_name(pipe, model, name, job.id, time_s):
                        self._redis.delete(key)
                        return job_before
                    pipe.execute()
                    return None

    def _take_name(
        self, pipe: "Pipeline", model: str, name: RequestName, job_id: str = "", time_s: float = 0.0
    ) -> str | None:
        """The id of the job that has this name; else None, and a MULTI has begun that gives it to `job_id`.

        The name is watched: the MULTI fails with WatchError where another request takes it meanwhile. A job
        without a result key has ended, and its name is free. Raises IdempotencyKeyReused.
        """
        key = self._keys.of(model).request(name.name)
        pipe.watch(key)  # type: ignore[no-untyped-call]
        digest, _, job_before = _bytes(pipe.get(key) or b"").decode().partition(" ")
        # Perhaps in another slot than the name, so not by the pipeline.
        if job_before and self._redis.exists(self._keys.result(model, job_before)):
            if digest != name.digest:
                raise IdempotencyKeyReused(
                    "This Idempotency-Key belongs to a request with another picture or other parameters, "
                    "whose result is kept: use a fresh key."
                )
            return job_before
        pipe.multi()
        if job_id:
            ttl_s = math.ceil(time_s) + self._limits.result_ttl_s + _NAME_MARGIN_S
            pipe.set(key, f"{name.digest} {job_id}", ex=ttl_s)
        return None

    @contextlib.contextmanager
    def _reported(self, model: str) -> Iterator[None]:
        """Log a refusal: of all threads as one, since the next request of this model comes in another.

        And that there was no answer: CLIENT PAUSE may hold writes alone, which no thread that reads notices.
        And what can't be read.
        """
        try:
            yield
        except MalformedMessage as error:
            _LOG.error("%s: what Redis has of a job can't be read: %s", model, error.detail)
            raise
        except BrokerUnavailable as error:
            is_silent = isinstance(error.__cause__, redis.TimeoutError)
            if self._refusals is not None and (error.is_refusal or is_silent):
                self._refusals.failed(error, model, who=self)
            raise


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job without a result. `deadline_passed`: and none will come."""

    deadline_passed: bool
    left_s: float = field(default=0.0, compare=False)
    """Seconds until its deadline."""
    polled_lane: str | None = field(default=None, compare=False)
    """In whose list of polled jobs it stands; None: in none."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """What the key of a job's result says."""

    state: Result | PendingJob
    expires_at: float
    """Until when the result can be polled, in Redis' time; of a pending job, until when at most."""

    @property
    def result(self) -> Result:
        """Its result. Raises TypeError where it is pending."""
        if isinstance(self.state, PendingJob):
            raise TypeError("the job is pending. This is a bug")
        return self.state


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
