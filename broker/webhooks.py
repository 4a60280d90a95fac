"""The webhooks of jobs in Redis: what is to be announced, where, and when to look at it next.

Owns the three keys that a job's webhook lives in, and its life: added in the MULTI that accepts the job, due
once the job has ended, taken by one process for the time of an attempt, put off or ended. Sends nothing;
web/webhooks/ does.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, cast

import redis
from redis.client import Pipeline

from broker import codec
from broker.clock import RedisClock, share_steps
from broker.cluster import ask_time, time_of
from broker.connection import translated
from broker.errors import MalformedMessage, Overloaded
from broker.keys import Keys, ModelKeys
from broker.messages import Result, Webhook
from broker.scripts import lua
from broker.shards import ShardMap
from telemetry import logs

_LOG = logging.getLogger(__name__)

MAX_WEBHOOKS: Final = 10_000
"""Of one model, of jobs that run and of receivers that are down: with URLs of the greatest length 20 MB."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of one model's undelivered results. Jobs that were accepted before still add theirs."""

_BYTES: Final = "bytes"
"""The field of `undelivered` that no job's id can be."""

_FULL_RETRY_S: Final = 10
"""Room comes as receivers answer, or give up: nobody knows when."""

GRACE_S: Final = 1.0
"""So long after its deadline a job is looked at that did not end: its worker may be about to say so."""


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A webhook that is due, and that nobody has taken yet."""

    model: str
    job_id: str
    webhook: Webhook


@dataclass(frozen=True, slots=True)
class TakenWebhook:
    """A webhook that this process has taken. `result` None: its job has not ended."""

    model: str
    job_id: str
    webhook: Webhook
    ended_at: float = 0.0
    """When the job ended, in Redis' time."""
    result: bytes | None = None
    """As JSON."""


class WebhookStore:
    """The webhooks of all models. Safe to share between threads; every method raises BrokerUnavailable."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        clock: RedisClock,
        *,
        key_ttl_s: int,
        result_ttl_s: int,
        shards: ShardMap | None = None,
    ) -> None:
        self._redis = client
        self._shards = shards or ShardMap()
        self._keys = keys
        self._clock = clock
        self._key_ttl_s = key_ttl_s
        self._result_ttl_s = result_ttl_s
        self._models: list[str] = []
        self._take_script = client.register_script(lua("webhook_take"))
        self._settle_script = client.register_script(lua("webhook_settle"))
        self._expire_script = client.register_script(lua("webhook_due", "webhook_expire"))

    def admit(self, model: str) -> None:
        """Refuse a job whose webhook the model has no room for. Raises Overloaded."""
        parts = self._shards.parts(self._keys, model)
        with (
            translated("count webhooks", self._redis, parts[-1].types),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            for keys in parts:
                pipe.zcard(keys.webhooks)
                pipe.hget(keys.undelivered, _BYTES)
            replies = pipe.execute()
        count, size = sum(replies[::2]), sum(int(size or 0) for size in replies[1::2])
        if count >= MAX_WEBHOOKS or size >= MAX_BYTES:
            raise Overloaded(
                f"{count} webhooks of {model} wait for their jobs or receivers already; come back in "
                f"{_FULL_RETRY_S} s, or poll for the result.",
                retry_after_s=_FULL_RETRY_S,
            )

    def add(self, pipe: "Pipeline", model: str, job_id: str, webhook: Webhook) -> None:
        """Add the commands to a MULTI that give the job that it accepts a webhook."""
        keys = self._keys.of(model, job_id)
        pipe.zadd(keys.webhooks, {job_id: webhook.deadline + GRACE_S})
        pipe.hset(keys.callbacks, job_id, cast("str", codec.encode(webhook)))
        for key in _all(keys):
            pipe.expire(key, self._key_ttl_s)

    def due(self, most: int) -> list[DueWebhook]:
        """Webhooks that are due, `most` of each part of a queue: those that have been due for longest."""
        with translated("list webhooks"):
            sent = self._clock.monotonic()
            with self._redis.pipeline(transaction=False) as pipe:
                ask_time(pipe, self._keys.clock)
                pipe.smembers(self._keys.models)
                asked = [part for model in self._models for part in self._shards.parts(self._keys, model)]
                for part in asked:
                    now = self._clock.of(part.model).now()
                    pipe.zrangebyscore(part.webhooks, "-inf", now, start=0, num=most)
                time, models, *found = pipe.execute(raise_on_error=False)
            for reply in (time, models):
                if isinstance(reply, redis.RedisError):
                    raise reply
            self._clock.sync(time_of(time), sent=sent, received=self._clock.monotonic())
            if self._clock.has_news:
                share_steps(self._redis, self._keys, self._clock)
            self._models = sorted(str(name, "ascii") for name in models)
            due: list[DueWebhook] = []
            for part, ids in zip(asked, found, strict=True):
                if isinstance(ids, list) and ids:  # a key of a wrong type is one model's trouble
                    due += self._with_callbacks(part, [str(job_id, "ascii") for job_id in ids])
        return due

    def take(self, due: DueWebhook, *, lease_s: float) -> TakenWebhook | None:
        """Take it for so many seconds, unless another process was quicker."""
        keys = self._keys.of(due.model, due.job_id)
        with translated("hand out a webhook", self._redis, keys.types):
            reply = self._take_script(keys=_all(keys), args=[due.job_id, lease_s, self._key_ttl_s])
        if not reply:
            return None
        callback, kept = cast("list[bytes]", reply)
        webhook = codec.decode(callback, Webhook) if callback else due.webhook
        if not kept:
            return TakenWebhook(due.model, due.job_id, webhook)
        ended_at, _, result = kept.partition(b" ")
        return TakenWebhook(due.model, due.job_id, webhook, float(ended_at), result)

    def put_off(self, webhooks: Sequence[DueWebhook], *, by_s: Callable[[], float]) -> None:
        """Let others have their turn before these, which nobody has taken. One that was taken stays so."""
        with translated("put webhooks off"):
            for (model, key), group in groupby(
                webhooks, lambda due: (due.model, self._keys.of(due.model, due.job_id).webhooks)
            ):
                now = self._clock.of(model).now()
                scores = {due.job_id: now + by_s() for due in group}
                self._redis.zadd(key, scores, xx=True, gt=True)

    def later(self, taken: TakenWebhook, *, in_s: float, attempts: int) -> None:
        """Make it due again after so many seconds."""
        webhook = Webhook(
            taken.webhook.url,
            taken.webhook.accepted_at,
            taken.webhook.deadline,
            taken.webhook.request_id,
            attempts,
            taken.webhook.owner,
        )
        self._settle(taken.model, taken.job_id, f"{in_s:.3f}", codec.encode(webhook))

    def end(self, model: str, job_id: str) -> bool:
        """Forget it: it is delivered, given up or not wanted any more. Returns whether there was one."""
        return self._settle(model, job_id, "", b"")

    def expire(self, model: str, failure: Result) -> None:
        """The deadline of this failure's job has passed: its webhook is due now, and its job is cancelled."""
        keys = self._keys.of(model, failure.id)
        with translated("end a job", self._redis, keys.types):
            self._expire_script(
                keys=[keys.result(failure.id), keys.webhooks, keys.undelivered, keys.trace(failure.id)],
                args=[failure.id, codec.encode(failure), self._result_ttl_s],
            )

    def left_s(self, taken: TakenWebhook) -> float:
        """Seconds until its job's deadline, whatever steps Redis' clock made since."""
        webhook, clock = taken.webhook, self._clock.of(taken.model)
        return webhook.deadline + clock.shift_s(webhook.accepted_at) - clock.now()

    def age_s(self, taken: TakenWebhook) -> float:
        """Seconds since its job ended, likewise."""
        clock = self._clock.of(taken.model)
        return clock.now() - taken.ended_at - clock.shift_s(taken.ended_at)

    def _with_callbacks(self, keys: ModelKeys, ids: list[str]) -> list[DueWebhook]:
        values, model = self._redis.hmget(keys.callbacks, ids), keys.model
        due = []
        for job_id, value in zip(ids, values, strict=True):
            try:
                due.append(DueWebhook(model, job_id, codec.decode(cast("bytes", value or b""), Webhook)))
            except MalformedMessage as error:
                about = logs.about(job_id=job_id, model=model)
                _LOG.error(
                    "%s: the webhook of job %s can't be read: %s", model, job_id, error.detail, extra=about
                )
                self.end(model, job_id)
        return due

    def _settle(self, model: str, job_id: str, in_s: str, callback: bytes) -> bool:
        keys = self._keys.of(model, job_id)
        with translated("settle a webhook", self._redis, keys.types):
            return bool(self._settle_script(keys=_all(keys), args=[job_id, in_s, callback, self._key_ttl_s]))


def _all(keys: ModelKeys) -> list[str]:
    return [keys.webhooks, keys.callbacks, keys.undelivered]
