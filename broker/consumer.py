"""The model server's half of the queue: wait for the bell, claim jobs, complete them.

Owns the two scripts that take jobs and finish them. One thread claims, another may complete meanwhile. It
never decides what a job is worth: batching, inference and the words of results are the worker's.
"""

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

import redis

from broker import channels, codec
from broker.channels import ResultChannels
from broker.clock import RedisClock
from broker.cluster import is_cluster
from broker.connection import translated
from broker.errors import LeaseLost
from broker.keys import Keys
from broker.lanes import WAITING_FOR_EACH_POLLED, LaneReader
from broker.lease import ring
from broker.messages import Result
from broker.scripts import lua

_LOG = logging.getLogger(__name__)

DEAD_LIMIT: Final = 64
"""Entries that `dead` keeps, the newest: at 200 KB each about 13 MB a model."""

DEAD_TTL_S: Final = 7 * 24 * 3600
"""How long dead letters are kept after the last one: an operator may look after the weekend."""

_FIELDS_PER_JOB: Final = 3

_FOR_OTHERS_S: Final = 0.02
"""Between looks at a queue that begins with a job for others: the bell, which wakes them, would ring here."""

_LEAST_WAIT_S: Final = 0.01
"""Redis 6.2 takes a time-out of 0.001 s or less for one without end."""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job as it was claimed: still JSON, for decoding may fail."""

    id: str
    attempts: int
    pending: bool
    """False: its client has cancelled or has its answer; drop it unrun."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class CompletedJob:
    """What became of a claimed job. `result` None: dropped. `reply_to`: the frontend to tell.

    `dead_reason`, where not empty, also puts the job into `dead`.
    """

    id: str
    result: Result | None = None
    reply_to: str | None = None
    dead_reason: str = ""
    request_id: str = ""
    """The job's, for the log; and so is its trace."""
    traceparent: str | None = None


class Consumer:
    """Claims and completes jobs of one model under the lease of one worker.

    `input_tag` says which pictures that worker takes; empty: any. Each claim keeps `clock` in step, so that
    the deadlines of its jobs are judged by Redis' clock as it is.
    `keeps_dead_pictures`: dead letters have theirs.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        model: str,
        *,
        key_ttl_s: int,
        result_ttl_s: int,
        input_tag: str = "",
        clock: RedisClock | None = None,
        keeps_dead_pictures: bool = True,
    ) -> None:
        self._redis = client
        self._keys = keys.of(model)
        self._all_keys = keys
        self._key_ttl_s = key_ttl_s
        self._result_ttl_s = result_ttl_s
        self._input_tag = input_tag
        self._clock = clock or RedisClock()
        self._dead_pictures = "keep" if keeps_dead_pictures else "drop"
        self._channels: ResultChannels | None = None
        """Where results are told; known from the first completion on."""
        self.is_for_others = False
        """All that the last claim found is left to other workers."""
        self.is_alone = False
        """The last claim left a job that runs alone, because its worker had others."""
        self.is_emptied = False
        """The last claim took jobs, and fewer than it might: the bell rings for what it left, or comes."""
        self._since_polled = 0
        """Jobs of waiting clients that it has taken since the last one of a client that polls."""
        self.owners = 0
        """Owners with jobs at the last claim, of the lanes that come first; 0: nobody has a lane."""
        self._lane_reader = LaneReader(client)
        self._claim_script = client.register_script(lua("others", "take", "lanes", "owners", "claim"))
        self._complete_script = client.register_script(lua("webhook_due", "complete"))

    def of_shard(self, shard: int, clock: RedisClock) -> Self:
        """The same for one shard of the queue, which has claims of its own and turns of its own.

        `clock` is that of the server that has it.
        """
        other = copy.copy(self)
        other._keys = self._keys.of_shard(shard)
        other._clock = clock
        other._channels = None
        other._since_polled = other.owners = 0
        other.is_for_others = other.is_alone = other.is_emptied = False
        return other

    @property
    def is_spread(self) -> bool:
        """Whether shards may lie on different servers: then no command waits for the bells of two."""
        return is_cluster(self._redis)

    @property
    def bell(self) -> str:
        """What rings for its jobs."""
        return self._keys.bell

    def ringing(self, timeout_s: float) -> bool:
        """Sleep until its bell rings, whoever its jobs are for; return whether it did."""
        with translated("ring", self._redis, self._keys.types, waits=True):
            return self._redis.blpop([self._keys.bell], timeout=timeout_s) is not None

    def ring(self) -> None:
        """Hand on a token that came too late for this worker."""
        types = self._keys.types
        with translated("ring", self._redis, types), self._redis.pipeline(transaction=False) as pipe:
            ring(pipe, self._keys, ttl_s=self._key_ttl_s)
            pipe.execute()

    def wait(self, timeout_s: float, *, others: Sequence[str] = ()) -> str | None:
        """Sleep until a bell rings, for about `timeout_s` at most, which is under the client's time-out.

        Its own, or one of the `others` in the same Redis. Returns which, where there may be work; None where
        that time has passed.
        """
        if self.is_for_others:
            time.sleep(min(timeout_s, _FOR_OTHERS_S))
            return self.bell
        with translated("ring", self._redis, self._keys.types, waits=True):
            rung = self._redis.blpop([self._keys.bell, *others], timeout=max(timeout_s, _LEAST_WAIT_S))
        return str(cast("list[bytes]", rung)[0], "ascii") if rung else None

    def rung(self, bells: Sequence[str]) -> set[str]:
        """Those of these bells that somebody rang for jobs that are still there, in one round trip."""
        with (
            translated("look at the bells", self._redis, self._keys.types),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            for bell in bells:
                pipe.llen(bell)
            return {bell for bell, tokens in zip(bells, pipe.execute(), strict=True) if tokens}

    def held(self, worker: str) -> int:
        """How many jobs this worker has claimed and not completed, as Redis has it."""
        with translated("measure a queue", self._redis, self._keys.types):
            return int(self._redis.llen(self._keys.claims(worker)))

    def waiting(self) -> int:
        """Jobs in all lists of the queue."""
        with translated("measure a queue", self._redis, self._keys.types):
            return self._lane_reader.lengths((self._keys,)).total

    def claim(
        self, worker: str, n: int, *, shared: int | None = None, beside: bool = False
    ) -> list[ClaimedJob]:
        """Move up to `n` jobs from the queue to this worker's claims and read them, in order.

        Of four one is of a client that polls, while others wait; all, while none does. Lanes have turns.
        A job that was recovered before comes alone; one whose picture was prepared for another input is left
        to a live worker that takes it, if there is one. `beside`: the worker has jobs of other shards, so
        none comes that must be alone. `shared`: the bound instead of `n`, if it is smaller, while
        several owners have jobs.
        Raises LeaseLost, or BrokerUnavailable: then the claim may have happened, and the caller gives back
        what it holds before it claims again.
        """
        keys, claims = self._keys, self._keys.claims(worker)
        names = [keys.workers, keys.queue, claims, keys.attempts, keys.bell, keys.states]
        shares = [self._since_polled, WAITING_FOR_EACH_POLLED]
        limits = [int(beside), n if shared is None else min(n, shared)]
        with translated("hand out jobs", self._redis, keys.types):
            sent = self._clock.monotonic()
            status, now, self._since_polled, self.owners, *fields = self._claim_script(
                keys=[*names, keys.polled, keys.turns, keys.polled_turns],
                args=[worker, n, keys.result_prefix, self._key_ttl_s, self._input_tag, *shares, *limits],
            )
            self._clock.sync(float(now), sent=sent, received=self._clock.monotonic())
            self.is_for_others, self.is_alone = status == b"others", status == b"alone"
            self.is_emptied = False
            if status == b"lease":
                raise LeaseLost(f"worker {worker} has no live lease")
            if not fields:
                return []
            count = len(fields) // _FIELDS_PER_JOB
            if count == 1:
                payloads = fields[_FIELDS_PER_JOB:]
            else:
                # The newest claims stand at the right end, behind what this worker may already hold.
                payloads = cast("list[bytes]", self._redis.lrange(claims, -count, -1))
        if len(payloads) != count:
            raise LeaseLost(f"the claims of worker {worker} were taken back while it read them")
        ids, attempts, pending = (
            fields[at : count * _FIELDS_PER_JOB : _FIELDS_PER_JOB] for at in range(_FIELDS_PER_JOB)
        )
        claimed = [
            ClaimedJob(str(ids[i], "latin-1"), int(attempts[i]), bool(pending[i]), payloads[i])
            for i in range(count)
        ]
        bound = limits[-1] if self.owners > 1 else n
        self.is_emptied = count < bound and not any(job.attempts for job in claimed)
        return claimed

    def oldest(self) -> list[float]:
        """When the jobs at the heads of the queue's lists were accepted; 0.0: one does not tell."""
        with translated("show a job", self._redis, self._keys.types):
            return self._lane_reader.accepted(self._keys)

    def complete(self, worker: str, outcomes: Sequence[CompletedJob]) -> bool:
        """Write the results of a batch, tell the frontends, take the batch off the claims: all or nothing.

        `outcomes` are the jobs of one claim (or several in a row), whole and in claim order. Returns
        False if the claims do not begin with them: after a lost reply that means it was done already.
        Raises LeaseLost (nothing was written; the jobs are others' now) or BrokerUnavailable (it may
        have been done: call it again).
        """
        keys = self._keys
        jobs: list[str | bytes] = []
        for outcome in outcomes:
            jobs += [
                outcome.id.encode("latin-1"),
                outcome.reply_to or "",
                codec.encode_text(outcome.dead_reason) if outcome.dead_reason else "",
                codec.encode(outcome.result) if outcome.result else "",
            ]
        with translated("take results", self._redis, self._keys.types):
            if self._channels is None:
                self._channels = channels.of_part(self._redis, self._all_keys, keys)
            told = self._channels
            names = [keys.workers, keys.claims(worker), keys.attempts, keys.dead]
            dead = (DEAD_TTL_S, DEAD_LIMIT, self._dead_pictures)
            status = self._complete_script(
                keys=[*names, keys.webhooks, keys.undelivered],
                args=[
                    worker,
                    keys.result_prefix,
                    self._result_ttl_s,
                    told.prefix,
                    *dead,
                    told.command,
                    *jobs,
                ],
            )
        if status == b"lease":
            raise LeaseLost(f"worker {worker} has no live lease")
        if status == b"letters":
            _LOG.error("dead letters were not kept: %s is not a list", keys.dead)
        return bool(status != b"claims")
