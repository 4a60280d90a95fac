"""The dead letters of a model: list its poison jobs, put them back into the queue, drop them.

Owns the reading of `dead`, whose entries complete.lua writes, and the order in which a job goes back. It
changes no job that is queued or claimed, and does not judge whether one is still poison.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final, cast

import msgspec
import redis
from msgspec.structs import replace

from broker import codec
from broker.clock import clock_of
from broker.cluster import redis_time
from broker.connection import translated
from broker.consumer import DEAD_TTL_S
from broker.errors import BrokerUnavailable, ClientError, MalformedMessage
from broker.keys import Keys
from broker.messages import Job, Pace, PicturelessJob
from broker.producer import Limits, Producer
from broker.shards import ShardMap

_ENTRY: Final = re.compile(rb'\{"reason":("(?:[^"\\]|\\.)*"),"job":(.*)\}', re.DOTALL)
"""An entry as complete.lua writes it. Read by its ends: a job that is no JSON spoils what is around it."""

_JOB_ID: Final = re.compile(rf"[0-9A-Fa-f-]{{{codec.ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What one entry says. None: unknown, because the job can't be read."""

    id: str
    """The job's; `entry-` and a checksum where it has none that can be read."""
    reason: str
    size: int
    """Bytes that the job takes in Redis."""
    shape: tuple[int, int, int] | None = None
    """Of its picture, as in the job."""
    original_size: tuple[int, int] | None = None
    """(width, height) of the upload."""
    accepted_at: float | None = None
    """Redis' time, in seconds since 1970."""
    request_id: str = ""
    """Of the request that the job came with; empty: of none that is known."""


class DeadLetters:
    """The poison jobs of one model, for an operator. Every method raises BrokerUnavailable."""

    def __init__(
        self, client: redis.Redis, keys: Keys, model: str, limits: Limits, *, shards: ShardMap | None = None
    ) -> None:
        self._redis = client
        self._model = model
        self._keys = keys.of(model)
        self._all_keys = keys
        self._shards = shards or ShardMap()
        self._clock = clock_of(client)
        self._producer = Producer(client, keys, limits, clock=self._clock, shards=self._shards)

    def entries(self) -> list[DeadLetter]:
        """Every entry, the oldest first."""
        return [_letter(entry) for _, entry in self._read()]

    def requeue(self, job_id: str, *, timeout_s: float, pace: Pace) -> str:
        """Put a job back into the queue, to be polled for `timeout_s`; return the fresh id that it has now.

        `pace` is as for Producer.admit. Raises ClientError when there is no such entry, MalformedMessage
        when its job can't be read, Overloaded when the queue is full: then nothing has changed.
        """
        key, entry = self._find(job_id)
        _, payload = _parts(entry)
        try:
            job = codec.decode_job(payload)
        except MalformedMessage as error:
            if _pictureless(payload):
                raise ClientError(
                    f"The picture of {job_id} was not kept (DEAD_LETTER_PICTURES=drop), so it can't be "
                    "queued again: only its client can send it again."
                ) from None
            raise MalformedMessage(
                f"The job of {job_id} can't be read, so it can't be queued again ({error.detail})."
            ) from None
        self._producer.admit(
            self._model, size=len(payload), timeout_s=timeout_s, pace=pace, polled=True, lane=job.lane
        )
        now = self._now()
        fresh_id = self._producer.ids.make(self._model, owner=job.owner, is_polled=True)
        again = replace(
            job, id=fresh_id, polled=True, accepted_at=now, deadline=now + timeout_s, reply_to=None
        )
        # The queue first: whoever dies between the two leaves a job and its entry, never neither. Queued
        # twice it is two jobs, each with an id and an answer of its own.
        self._producer.enqueue(self._model, again)
        try:
            self._remove(key, entry)
        except BrokerUnavailable as error:
            raise BrokerUnavailable(
                f"{error.detail} {job_id} is queued again as {fresh_id}, but may still be a dead letter."
            ) from error
        return fresh_id

    def drop(self, job_id: str) -> None:
        """Remove an entry for good. Raises ClientError when there is none."""
        self._remove(*self._find(job_id))

    def _read(self) -> list[tuple[str, bytes]]:
        """Each entry with the key that has it, of all shards, also where no worker lives."""
        with translated("list the dead letters", self._redis, self._keys.types):
            served = int(self._redis.get(self._keys.shards) or 1)
            return [
                (part.dead, entry)
                for part in self._keys.parts(served)
                for entry in cast("list[bytes]", self._redis.lrange(part.dead, 0, -1))
            ]

    def _find(self, job_id: str) -> tuple[str, bytes]:
        for key, entry in self._read():
            if _id(_parts(entry)[1]) == job_id:
                return key, entry
        raise ClientError(f"{self._model} has no dead letter {job_id}.")

    def _remove(self, key: str, entry: bytes) -> None:
        """Remove one entry by its bytes: its place may have moved, and another may have removed it."""
        with translated("remove a dead letter"), self._redis.pipeline(transaction=False) as pipe:
            # No MULTI: a full Redis refuses it, and an operator may do this to make room.
            pipe.lrem(key, 1, cast("str", entry))
            pipe.expire(key, DEAD_TTL_S)
            pipe.execute()

    def _now(self) -> float:
        """The time by which the job is judged. The clock of ids is read as well: this host's may be wrong."""
        its_own = self._clock.of(self._model)
        with translated("tell the time"):
            for clock in {self._clock, its_own}:
                sent = clock.monotonic()
                now = redis_time(self._redis, clock.key(self._all_keys))
                clock.sync(now, sent=sent, received=clock.monotonic())
        return its_own.now()


def _parts(entry: bytes) -> tuple[str, bytes]:
    """The reason of an entry, and its job as JSON; an entry of a form that is not ours is all job."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return "", entry
    try:
        return msgspec.json.decode(match[1], type=str), match[2]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", match[2]


def _letter(entry: bytes) -> DeadLetter:
    reason, payload = _parts(entry)
    job: Job | PicturelessJob | None
    try:
        job = codec.decode_job(payload)
    except MalformedMessage:
        job = _pictureless(payload)
    if job is None:
        return DeadLetter(_id(payload), reason, len(payload))
    return DeadLetter(
        _id(payload),
        reason,
        len(payload),
        shape=job.image.shape if isinstance(job, Job) else job.shape,
        original_size=job.original_size,
        accepted_at=job.accepted_at,
        request_id=job.request_id,
    )


def _pictureless(payload: bytes) -> PicturelessJob | None:
    """What is known of a job whose picture was not kept; None where it is there, or can't be read."""
    try:
        return codec.decode(payload, PicturelessJob)
    except MalformedMessage:
        return None


def _id(payload: bytes) -> str:
    text = str(payload[codec.ID_START : codec.ID_START + codec.ID_LENGTH], "latin-1")
    if _JOB_ID.fullmatch(text):
        return text
    return f"entry-{hashlib.sha256(payload).hexdigest()[:12]}"
