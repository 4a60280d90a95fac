"""What the web tier knows of the models: their cards, their workers, their queues.

Owns a snapshot that is at most two seconds old, so that a request costs no look-up of its own. It only
reads.
"""

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import redis
from redis.client import Pipeline

from broker import codec, contract, lanes
from broker.clock import AHEAD_S, RedisClock, share_steps
from broker.cluster import ask_time, is_cluster, time_of
from broker.connection import refusal, refusal_code, translated, unavailable
from broker.errors import BrokerUnavailable, MalformedMessage
from broker.keys import Keys, ModelKeys
from broker.lanes import LaneReader
from broker.messages import Card, Label, Pace, State, WorkerState
from broker.outage import Outage
from broker.shards import ShardMap

SNAPSHOT_S: Final = 1.0

_VERSIONS: Final = 64
"""Of all models together, whose labels are kept: a megabyte or two."""


_BEST_FIRST: Final = (WorkerState.READY, WorkerState.LOADING, WorkerState.DRAINING, WorkerState.FAILED)
_WORST_FIRST: Final = (WorkerState.FAILED, None, WorkerState.DRAINING, WorkerState.LOADING, WorkerState.READY)


@dataclass(frozen=True)
class ModelView:
    """One model as its keys show it. What is derived is derived once a snapshot, not once a request."""

    card: Card
    states: Mapping[str, State]
    """Live worker -> its state; lapsed and reaped workers are left out."""
    last_alive: float
    """Redis' time until which some worker's lease lasts or lasted; 0 if none is remembered."""
    queue_length: int
    """Jobs of clients that wait and of those that poll."""
    asked: tuple["ModelView | None", ...] = ()
    """The models of a pipeline's steps; None where one was not announced."""

    @cached_property
    def own_state(self) -> WorkerState | None:
        """The best state among the live workers; None without one."""
        present = {state.state for state in self.states.values()}
        return next((state for state in _BEST_FIRST if state in present), None)

    @cached_property
    def state(self) -> WorkerState | None:
        """Its own state; of a pipeline that is ready the worst among those of its steps' models."""
        states = {view.own_state if view is not None else None for view in self.asked}
        if self.own_state is not WorkerState.READY or not states:
            return self.own_state
        return next(state for state in _WORST_FIRST if state in states)

    @property
    def reason(self) -> str:
        """Why it failed, where it did; else why a changed folder was not taken up, if so."""
        if self.own_state is WorkerState.READY and self.state is not WorkerState.READY:
            if self.state is None:
                missing = [
                    step.model
                    for step, view in zip(self.card.steps, self.asked, strict=True)
                    if view is None or view.own_state is None
                ]
                return f"No model server serves {', '.join(dict.fromkeys(missing))}, which its steps ask."
            views = (view for view in self.asked if view is not None and view.own_state is self.state)
            return next((view.reason for view in views if view.reason), "")
        reasons = sorted(
            (s.state is not WorkerState.FAILED, s.reason) for s in self.states.values() if s.reason
        )
        return reasons[0][1] if reasons else ""

    @cached_property
    def job_size(self) -> int:
        """Bytes that a job for it takes in its queue, without a notice."""
        return codec.job_size(self.card.input)

    @cached_property
    def pace(self) -> Pace:
        """How fast the ready workers are, as they measured it."""
        ready = [state for state in self.states.values() if state.state is WorkerState.READY]
        slowest_ms = max((state.latency_ms for state in ready), default=0.0)
        return Pace(rate=sum(state.rate for state in ready), batch_s=slowest_ms / 1000)


class Registry:
    """Reads the models' keys, at most once in SNAPSHOT_S, and keeps the clock in step.

    That Redis refuses to tell them is reported to `refusals`, if given; replies.py reports that it is away.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        clock: RedisClock,
        *,
        refusals: Outage | None = None,
        shards: ShardMap | None = None,
    ) -> None:
        """`shards` is told into how many the queues are split."""
        self._redis = client
        self._shards = shards or ShardMap()
        self._keys = keys
        self._clock = clock
        self._reading = threading.Lock()
        self._models: Mapping[str, ModelView] = {}
        self._failure: BrokerUnavailable | None = None
        self._refusals = refusals
        self.write_refusal = ""
        """Why Redis took no write when the models were last read, and leases lapse; empty: it took one."""
        self.away: Mapping[str, BrokerUnavailable] = {}
        """Models whose node of a cluster did not answer when the models were last read, and why."""
        self._began_at = float("-inf")
        self._lanes = LaneReader(client)
        self._labels: dict[tuple[str, str], tuple[Label, ...]] = {}
        """By model and version."""

    def models(self, *, fresh: bool = False) -> Mapping[str, ModelView]:
        """Every announced model by name. `fresh`: as it is now. Raises BrokerUnavailable.

        One thread reads at a time. Whoever waited takes the outcome of a read that began after it
        asked, so that however many ask, nobody waits longer than two reads; a failed read is an
        outcome as well, and for SNAPSHOT_S all others fail at once. Without `fresh` a snapshot that is a
        little too old will do while another thread reads; one of before a pause will not.
        """
        asked_at = self._clock.monotonic()
        age_s = asked_at - self._began_at
        if fresh or age_s >= SNAPSHOT_S:
            is_stale = age_s > 2 * SNAPSHOT_S
            if self._reading.acquire(blocking=fresh or is_stale):
                try:
                    if self._began_at <= (asked_at if fresh else self._clock.monotonic() - SNAPSHOT_S):
                        self._refresh()
                finally:
                    self._reading.release()
        if self._failure is not None:
            raise self._failure
        return self._models

    def labels(self, model: str, model_version: str) -> tuple[Label, ...]:
        """The labels of a model, in their order; none where it has none. Raises BrokerUnavailable.

        Those of a version never change, so each is read once.
        """
        version = (model, model_version)
        labels = self._labels.get(version)
        if labels is None:
            with translated("tell a model's labels"):
                value = self._redis.get(self._keys.of(model).labels(model_version))
            if not isinstance(value, bytes):
                return ()  # its worker has not sent them yet
            labels = codec.decode_labels(value)
            if len(self._labels) >= _VERSIONS:
                self._labels.clear()
            self._labels[version] = labels
        return labels

    def now(self, model: str = "") -> float:
        """Redis' time, as this process keeps it; by it a model's leases and deadlines are judged."""
        return (self._clock.of(model) if model else self._clock).now()

    def _refresh(self) -> None:
        began_at = self._clock.monotonic()
        try:
            self._models = self._read()
            self._failure = None
            if self._refusals is not None:
                self._refusals.succeeded(who=self)
        except BrokerUnavailable as error:
            self._failure = error
            if self._refusals is not None and error.is_refusal:
                self._refusals.failed(error, who=self)
        self._began_at = began_at

    def _read(self) -> Mapping[str, ModelView]:
        with translated("list its models"), self._redis.pipeline(transaction=False) as pipe:
            models = self._names(pipe)
            self._sync(models)
            for model in models:
                keys = self._keys.of(model)
                pipe.get(keys.card)
                pipe.hgetall(keys.states)
                pipe.zrange(keys.workers, 0, -1, withscores=True)
                lanes.ask(pipe, keys)
            pipe.setrange(self._keys.probe, 0, "")  # changes nothing, and is refused as a write is
            *replies, written = pipe.execute(raise_on_error=False)
            self.write_refusal = refusal(written) if isinstance(written, redis.ResponseError) else ""
            size, known, away = len(_ABSENT), dict[str, ModelView](), dict[str, BrokerUnavailable]()
            for number, model in enumerate(models):
                try:
                    view = self._told(model, replies[number * size : (number + 1) * size])
                except redis.RedisError as error:
                    away[model] = unavailable("list its models", error)
                else:
                    known |= {model: view} if view is not None else {}
        if away and not (known and is_cluster(self._redis)):
            raise next(iter(away.values()))
        self.away = away
        self._shards.note(view.card for view in known.values())
        known = {name: self._whole(view) for name, view in known.items()}
        return {name: _with_asked(view, known) for name, view in known.items()}

    def _names(self, pipe: Pipeline) -> list[str]:
        """The names of all models; those known before where another node than theirs is away."""
        sent = self._clock.monotonic()
        ask_time(pipe, self._keys.clock)
        pipe.smembers(self._keys.models)
        pipe.get(self._keys.contract)
        now, names, version = pipe.execute(raise_on_error=False)
        for reply in (now, names, version):
            if isinstance(reply, redis.RedisError) and not (self._models and is_cluster(self._redis)):
                raise reply
        if isinstance(names, redis.RedisError):
            return sorted(self._models)
        if not isinstance(version, redis.RedisError):
            contract.check(self._keys, version)
        if not isinstance(now, redis.RedisError):
            self._clock.sync(time_of(now), sent=sent, received=self._clock.monotonic())
            share_steps(self._redis, self._keys, self._clock)
        return sorted(str(name, "ascii") for name in names)

    def _sync(self, models: Sequence[str]) -> None:
        """Ask each model's node in a cluster for its time: they differ, and a slot may have moved."""
        if not is_cluster(self._redis):
            return
        clocks = [self._clock.of(model) for model in models]
        with self._redis.pipeline(transaction=False) as pipe:
            sent = self._clock.monotonic()
            for clock in clocks:
                ask_time(pipe, clock.key(self._keys))
            replies, received = pipe.execute(raise_on_error=False), self._clock.monotonic()
        for clock, now in zip(clocks, replies, strict=True):
            if not isinstance(now, redis.RedisError):
                clock.sync(time_of(now), sent=sent, received=received)
                with contextlib.suppress(BrokerUnavailable):  # its node has just gone
                    share_steps(self._redis, self._keys, clock)

    def _told(self, model: str, replies: Sequence[Any]) -> ModelView | None:
        """The view of a model, of what its node replied. Raises what redis-py does."""
        read = [_readable(reply, absent) for reply, absent in zip(replies, _ABSENT, strict=True)]
        return self._view(model, self._length(self._keys.of(model), *read[3:]), *read[:3])

    def _length(self, keys: ModelKeys, waiting: int, polled: int, has_lanes: int) -> int:
        """Jobs in a part of a model's queue: only where there are lanes is Redis asked again."""
        if not has_lanes:
            return waiting + polled
        try:
            return self._lanes.shared(keys).total
        except redis.ResponseError as error:
            return int(_readable(error, waiting + polled))

    def _whole(self, view: ModelView) -> ModelView:
        """The view with the jobs of all shards of its queue, for which Redis is asked again."""
        parts = self._shards.parts(self._keys, view.card.model)
        if len(parts) == 1:
            return view
        with self._redis.pipeline(transaction=False) as pipe:
            for keys in parts[1:]:
                lanes.ask(pipe, keys)
            replies = pipe.execute(raise_on_error=False)
        length = view.queue_length
        for number, keys in enumerate(parts[1:]):
            try:
                told = [_readable(reply, 0) for reply in replies[3 * number : 3 * number + 3]]
                length += self._length(keys, *told)
            except redis.RedisError:
                if not is_cluster(self._redis):
                    raise
                # The other shards are served while this one's node is away.
        return replace(view, queue_length=length)

    def _view(
        self,
        model: str,
        queue_length: int,
        card: bytes | None,
        states: dict[bytes, bytes],
        workers: list[tuple[bytes, float]],
    ) -> ModelView | None:
        try:
            said = {worker: codec.decode(state, State) for worker, state in states.items()}
            clock = self._clock.of(model)
            leases = {worker: _lease_end(clock, expiry, said.get(worker)) for worker, expiry in workers}
            now = clock.now()
            live_states = {str(w, "ascii"): s for w, s in said.items() if leases.get(w, 0.0) > now}
            newest = _card(live_states.values()) or (codec.decode(card, Card) if card is not None else None)
            if newest is None:
                return None
            return ModelView(
                card=newest,
                states=live_states,
                last_alive=max(map(abs, leases.values()), default=0.0),
                queue_length=queue_length,
            )
        except MalformedMessage:
            return None  # written by something else: not ours to serve


def _lease_end(clock: RedisClock, expiry: float, state: State | None) -> float:
    """When a worker's lease ends, or has ended (negative: a tombstone), by Redis' clock as it is now.

    0: it was last heard in the future, before Redis' clock went back; its next renewal tells.
    """
    if state is None and expiry > 0:
        return expiry  # it has just registered
    heard_at = state.heartbeat if state is not None else -expiry
    by_s = clock.shift_s(heard_at)
    if heard_at + by_s > clock.now() + AHEAD_S:
        return 0.0
    return expiry + (by_s if expiry > 0 else -by_s)


def _with_asked(view: ModelView, known: Mapping[str, ModelView]) -> ModelView:
    """The view of a pipeline, with those of its steps' models; of another model as it is."""
    if not view.card.steps:
        return view
    return replace(view, asked=tuple(known.get(step.model) for step in view.card.steps))


_ABSENT: Final[tuple[object, ...]] = (None, {}, [], 0, 0, 0)
"""What a model's card, states, workers, the two lists of its queue and its lanes are where there are none."""


def _readable(reply: Any, absent: Any) -> Any:  # noqa: ANN401 - whatever Redis replies
    """A reply, or `absent` for a key of a wrong type: the trouble of one model must not hide the others.

    Who writes the key tells of it. Raises what else Redis refused.
    """
    if not isinstance(reply, redis.RedisError):
        return reply
    if refusal_code(reply) != "WRONGTYPE":
        raise reply
    return absent


def _card(states: Iterable[State]) -> Card | None:
    """The card that pictures are prepared by: of the workers in the best state, that of the newest.

    So two versions side by side do not take turns, and when the newest leaves the other's counts again.
    """
    ranked = [(-_BEST_FIRST.index(state.state), state.since, state.card) for state in states if state.card]
    return max(ranked, key=lambda rank: rank[:2])[2] if ranked else None
