"""A worker's life in Redis: its lease, its state, the model's card, and the recovery of lost peers.

Owns registration, renewal, leaving and reaping. It never claims or completes a job; consumer.py does.
Safe to use from the renewing thread while the claiming thread uses the consumer.
"""

import copy
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Self, cast

import redis
from redis.client import Pipeline

from broker import codec, contract
from broker.clock import RedisClock, share_steps
from broker.cluster import is_cluster, node_of
from broker.connection import translated
from broker.errors import LeaseLost
from broker.keys import Keys, ModelKeys
from broker.messages import MOST_SHARDS, Card, Label, State, WorkerState
from broker.scripts import lua

BELL_TOKENS: Final = 64
"""The bell only wakes: more tokens than workers could ever sleep are of no use."""

TOMBSTONE_S: Final = 600
"""How long a reaped worker is remembered, so that a late renewal is refused; longer than any pause
that a stopped process could be in and still matter."""

SHARDS_TTL_S: Final = 8 * 24 * 3600
"""How long shards are served that no setting names any more: longer than a dead letter in them is kept."""


def ring(pipe: Pipeline, keys: ModelKeys, *, ttl_s: int) -> None:
    """Add three commands, which wake a worker that sleeps."""
    pipe.rpush(keys.bell, "1")
    pipe.ltrim(keys.bell, -BELL_TOKENS, -1)
    pipe.expire(keys.bell, ttl_s)


class Lease:
    """The right of one worker to claim and complete jobs of one model, for `lease_s` at a time.

    Every method raises BrokerUnavailable when Redis is away.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        card: Card,
        *,
        labels: Sequence[Label] = (),
        lease_s: float,
        key_ttl_s: int,
        clock: RedisClock,
    ) -> None:
        self._redis = client
        self._all_keys = keys
        self._keys = keys.of(card.model)
        self.shards_served = card.shards
        """How many shards of the queue there may be jobs in, as of the last `announce`."""
        self.card = card
        """What `announce` publishes of the model; a worker whose engine is a fallback replaces it."""
        self._labels = codec.encode_labels(labels)
        self._lease_s = lease_s
        self._ttl_s = key_ttl_s
        self.clock = clock
        """Redis' time, in step with each renewal."""
        self.worker = ""
        """The id under which this worker is registered now; empty before the first registration."""
        self._since = 0.0
        self._lease_script = client.register_script(lua("lease"))
        self._announce_script = client.register_script(lua("announce"))
        self._recover_script = client.register_script(lua("home", "recover"))

    @property
    def is_of_shard(self) -> bool:
        """Whether only peers in one shard of the queue hear of it."""
        return self._keys.shard is not None

    def of_shard(self, shard: int) -> Self:
        """A lease for one shard of the queue, under an id of its own, not yet registered.

        It publishes the state for the peers in that shard; card and labels are the model's.
        """
        other = copy.copy(self)
        other._keys = self._keys.of_shard(shard)
        if is_cluster(self._redis):
            other.clock = RedisClock(self.clock.monotonic)  # the shard may be on another node
        other.worker, other._since = "", 0.0
        return other

    def register(self, state: State) -> str:
        """Take a lease under a fresh id, publish the card and the state. Returns the id.

        Raises BrokerUnavailable where another release, with another contract, uses these keys.
        """
        if not self.is_of_shard:
            self._agree()
        worker = str(uuid.uuid4())
        _, now = self._run_lease(worker, "register")
        self.worker = worker
        # The first registration counts: a worker that was reaped and registers again is no newer than it was.
        self._since = self._since or now
        self.announce(state)
        return worker

    def renew(self) -> None:
        """Prolong the lease to `lease_s` from now. Raises LeaseLost if a peer reaped it, or Redis lost it."""
        is_renewed, _ = self._run_lease(self.worker, "renew")
        if not is_renewed:
            raise LeaseLost(f"worker {self.worker} lost its lease: a peer reaped it, or Redis has lost it")

    def announce(self, state: State) -> None:
        """Write the state with the card in it, and refresh their TTLs.

        The card's own key is for when no worker lives; of one that is not ready it is set only if missing.
        The labels, 30 KB of a thousand classes, are sent only where Redis has none of this version.
        """
        state = replace(state, input=self.card.input.tag, since=self._since)
        state = replace(state, heartbeat=round(self.clock.now(), 3))
        if self.is_of_shard:
            with translated("take this worker's state", self._redis, self._keys.types):
                self._announce_script(keys=self._announced(), args=(self.worker, "", "", *self._said(state)))
            return
        self._list_model()
        share_steps(self._redis, self._all_keys, self.clock)
        # A script: a full Redis refuses every MULTI, and is drained by workers that are listed.
        with translated("take this worker's state", self._redis, self._keys.types):
            if self._announce(state) != self.shards_served:  # the card is to say how many
                self._announce(state)

    def _announce(self, state: State) -> int:
        """Publish the state, the card and, if it is missing, the labels. Returns the shards that it said."""
        said = self.shards_served
        card = replace(self.card, shards_served=said)
        is_ready = "ready" if state.state is WorkerState.READY else ""
        args = (self.worker, codec.encode(card), is_ready, *self._said(replace(state, card=card)))
        status, most = self._announce_script(keys=self._announced(), args=args)
        if status == b"no labels":
            self._announce_script(keys=self._announced(), args=(*args[:5], self._labels, *args[6:]))
        self.shards_served = min(int(most), MOST_SHARDS)
        return said

    def _announced(self) -> list[str]:
        keys = self._keys
        return [keys.workers, keys.card, keys.states, keys.labels(self.card.model_version), keys.shards]

    def _said(self, state: State) -> tuple[bytes, int, str, int, int]:
        """What announce.lua takes after the card."""
        return codec.encode(state), self._ttl_s, "", self.card.shards, SHARDS_TTL_S

    def give_back(self) -> int:
        """Return own claims, unbegun, to the heads of their lists without an attempt; keep the lease.

        Returns how many. Raises LeaseLost if the lease is not live (a peer then recovers them).
        """
        return self._give_back("release")

    def leave(self) -> int:
        """As `give_back`, and end the lease with a tombstone, so that nobody waits for it to lapse."""
        return self._give_back("leave")

    def recover_lost(self) -> dict[str, int]:
        """Reap every lapsed peer, sweep what tombstones still hold. Returns worker -> jobs given back.

        A lease that lasts longer than one can, since Redis' clock went back, is cut to its length.
        """
        with translated("list its workers", self._redis, self._keys.types):
            now = self.clock.now()
            # The script judges by Redis' own time.
            leases = cast(
                "list[tuple[bytes, float]]", self._redis.zrange(self._keys.workers, 0, -1, withscores=True)
            )
            suspects = [worker for worker, ends_at in leases if not now < ends_at <= now + self._lease_s]
            self._redis.zremrangebyscore(self._keys.workers, f"({-(now - TOMBSTONE_S)}", "(0")
        recovered = {}
        for suspect in (str(worker, "ascii") for worker in suspects):
            if suspect == self.worker:
                continue
            status, *moved = self._run_recover(suspect, "lapsed")
            if status == b"ok" and moved[0]:
                recovered[suspect] = int(moved[0])
        return recovered

    def peers(self) -> list[State]:
        """What the other live workers of the model say of themselves."""
        with (
            translated("list its workers", self._redis, self._keys.types),
            self._redis.pipeline(transaction=False) as pipe,
        ):
            pipe.zrangebyscore(self._keys.workers, self.clock.now(), "+inf")
            pipe.hgetall(self._keys.states)
            live, states = pipe.execute()
        others = set(live) - {self.worker.encode()}
        return [codec.decode(state, State) for worker, state in states.items() if worker in others]

    def next_lapse_s(self) -> float | None:
        """Seconds until a peer's lease lapses, unless it is renewed; None where there is no peer."""
        with translated("list its workers", self._redis, self._keys.types):
            now = self.clock.now()
            soonest = cast(
                "list[tuple[bytes, float]]",
                self._redis.zrangebyscore(self._keys.workers, now, "+inf", start=0, num=2, withscores=True),
            )
        return next((lapses - now for worker, lapses in soonest if str(worker, "ascii") != self.worker), None)

    def server_uptime_s(self) -> int:
        """Seconds since the model's Redis process started: a young one has not heard every live peer yet."""
        with translated("tell its uptime"):
            return int(node_of(self._redis, self._keys.workers).info("server")["uptime_in_seconds"])

    def _agree(self) -> None:
        """Write the contract's version where none is; refuse to join those who keep another."""
        key = self._all_keys.contract
        with translated("agree on its contract", self._redis, {key: "string"}):
            version = self._redis.get(key)
            if version is None:  # only then: a full Redis refuses to set what is there, too
                self._redis.set(key, contract.VERSION, nx=True, ex=self._ttl_s)
                version = self._redis.get(key)
        contract.check(self._all_keys, version)

    def _list_model(self) -> None:
        """Keep the model's name and the contract for another `key_ttl_s`; add the name if it is missing."""
        models = self._all_keys.models
        with translated("list this model", self._redis, {models: "set"}):
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.sismember(models, self.card.model)
                pipe.expire(models, self._ttl_s)
                pipe.expire(self._all_keys.contract, self._ttl_s)
                is_listed = bool(pipe.execute()[0])
            if not is_listed:
                self._redis.sadd(models, self.card.model)
                self._redis.expire(models, self._ttl_s)

    def _give_back(self, why: str) -> int:
        status, *moved = self._run_recover(self.worker, why)
        if status != b"ok":
            raise LeaseLost(f"worker {self.worker} lost its lease: a peer reaped it, or Redis has lost it")
        return int(moved[0])

    def _run_lease(self, worker: str, verb: str) -> tuple[bool, float]:
        """Whether it was done, and Redis' time."""
        with translated("take a lease", self._redis, self._keys.types):
            sent = self.clock.monotonic()
            status, now = self._lease_script(
                keys=[self._keys.workers], args=[worker, self._lease_s, verb, self._ttl_s]
            )
            self.clock.sync(float(now), sent=sent, received=self.clock.monotonic())
        return bool(status == b"ok"), float(now)

    def _run_recover(self, worker: str, why: str) -> list[bytes | int]:
        keys = self._keys
        with translated("give jobs back", self._redis, self._keys.types):
            reply: list[bytes | int] = self._recover_script(
                keys=[
                    keys.workers,
                    keys.queue,
                    keys.claims(worker),
                    keys.attempts,
                    keys.states,
                    keys.bell,
                    keys.polled,
                    keys.turns,
                    keys.polled_turns,
                ],
                args=[worker, why, self._ttl_s, BELL_TOKENS, keys.result_prefix],
            )
        return reply
