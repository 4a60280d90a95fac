"""A worker: one model, one lease, one thread that claims a batch, runs it and completes it.

Owns the order of those steps and what happens when Redis or the lease goes away between them. The
lease is kept alive by keeper.py, from another thread.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.clock import RedisClock
from broker.consumer import Claimed, Consumer, Outcome
from broker.errors import (
    BrokerUnavailable,
    LeaseLost,
    ModelUnavailable,
    ServiceError,
    first_line,
)
from broker.lease import Lease
from broker.messages import State, Timings, WorkerState
from model_server import batching, outcomes
from model_server.catalogue import ModelSpec
from model_server.engines import Engine, Outputs

_LOG = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""An idle worker tries a claim this often even if no bell rings: what a lost wake-up costs at most."""

_RECONNECT_S: Final = 0.2

_SMOOTHING: Final = 0.2
"""Weight of the newest batch in the moving averages: about the last ten batches count."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may do: pictures a call, attempts a job."""

    batch_size: int
    max_attempts: int


class Worker:
    """Serves one model until `stopping` is set. `device` is held while the network runs."""

    def __init__(
        self,
        spec: ModelSpec,
        load: Callable[[], Engine],
        lease: Lease,
        consumer: Consumer,
        clock: RedisClock,
        *,
        limits: WorkerLimits,
        device: threading.Lock,
        stopping: threading.Event,
    ) -> None:
        self.spec = spec
        self.lease = lease
        self.stopping = stopping
        self.call_began: float | None = None
        """Monotonic time at which the running call of the network began; None between calls."""
        self._load = load
        self._consumer = consumer
        self._clock = clock
        self._limits = limits
        self._device = device
        self._engine: Engine | None = None
        self._version = spec.version
        self._state = State(WorkerState.LOADING, self._version)
        self._registering = threading.Lock()
        self._announcing = threading.Lock()
        self.has_left = False
        self._claims_uncertain = False
        self.notice = "random weights: the labels mean nothing" if spec.weights == "random" else ""

    @property
    def state(self) -> State:
        """What this worker says of itself now."""
        if self.stopping.is_set() and self._state.state is WorkerState.READY:
            return replace(self._state, state=WorkerState.DRAINING)
        return self._state

    def run(self) -> None:
        """Register, load, serve, leave. Returns once `stopping` is set."""
        self.ensure_registered()
        if not self.lease.worker:
            return  # told to stop while Redis was away
        reason = self._failure_to_load()
        if reason:
            self._say(State(WorkerState.FAILED, self._version, reason=reason))
            _LOG.error("%s failed to load: %s", self.spec.name, reason)
            self.stopping.wait()
        else:
            self._say(State(WorkerState.READY, self._version))
            _LOG.info("%s is ready (worker %s)", self.spec.name, self.lease.worker)
            while not self.stopping.is_set():
                self.step()
        self._leave()

    def _failure_to_load(self) -> str:
        """Load the engine. Returns why it can't be had; empty when it can."""
        try:
            self._engine = self._load()
        except ModelUnavailable as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - whatever a network raises, the other models serve on
            _LOG.exception("%s can't be run", self.spec.name)
            return f"{self.spec.name}: the network can't be run as its model.toml says ({first_line(error)})."
        return ""

    def step(self) -> int:
        """One claim, run and completed, or a wait of IDLE_S at most. Returns the number of jobs claimed."""
        worker = self.lease.worker
        try:
            if self._claims_uncertain:
                self.lease.give_back()
                self._claims_uncertain = False
            # The device first: a batch claimed while a sibling's runs would wait where others can't take it.
            with self._device:
                claimed = self._consumer.claim(worker, self._limits.batch_size)
                done = self._run_batch(claimed) if claimed else []
            if not claimed:
                self._consumer.wait(IDLE_S)
                return 0
        except LeaseLost:
            self.ensure_registered(lost=worker)
            return 0
        except BrokerUnavailable as error:
            self._claims_uncertain = True
            _LOG.warning("%s: %s Trying again.", self.spec.name, error.message)
            self.stopping.wait(_RECONNECT_S)
            return 0
        self._complete(worker, done)
        return len(claimed)

    def ensure_registered(self, *, lost: str = "") -> None:
        """Renew the lease `lost` (empty: the first), or take one under a new id if it was reaped.

        Called by both threads; waits for Redis. Local batches of the old id are refused from then on.
        """
        while True:
            try:
                with self._registering:
                    if self.has_left:
                        return
                    if self.lease.worker == lost and not self._renewed():
                        worker = self.lease.register(self._state)
                        _LOG.info("%s registered as worker %s", self.spec.name, worker)
                return
            except BrokerUnavailable as error:
                _LOG.warning("%s: %s Trying again.", self.spec.name, error.message)
                if self.stopping.wait(_RECONNECT_S):
                    return

    def _renewed(self) -> bool:
        if not self.lease.worker:
            return False
        try:
            self.lease.renew()
        except LeaseLost as error:
            _LOG.warning("%s: %s", self.spec.name, error.message)
            return False
        return True

    def _run_batch(self, claimed: list[Claimed]) -> list[Outcome]:
        claimed_at = self._clock.now()
        began = time.monotonic()
        batch = batching.form(
            claimed, self.spec.input, now=claimed_at, max_attempts=self._limits.max_attempts
        )
        formed = time.monotonic()
        runnable = batch.runnable
        batching.run(runnable, self._predict)
        ran = time.monotonic()
        timings = Timings(batch=(formed - began) * 1000, model=(ran - formed) * 1000)
        if runnable:
            self._measure(len(runnable), ran - began)
        return outcomes.of(batch, self.spec, self._version, self.notice, claimed_at, timings)

    def _predict(self, pictures: NDArray[np.uint8]) -> Outputs:
        if self._engine is None:
            raise RuntimeError("a batch before the engine was loaded. This is a bug")
        self.call_began = time.monotonic()
        try:
            return self._engine.predict(pictures)
        finally:
            self.call_began = None

    def _complete(self, worker: str, done: list[Outcome]) -> None:
        """Complete the batch, through an outage if need be. Dropped only when the lease is another's."""
        while True:
            try:
                if not self._consumer.complete(worker, done):
                    # Done already, its reply was lost; or a killed Redis forgot its last writes and the
                    # claims begin with an older batch. Giving back what is there mends both.
                    _LOG.warning("%s: the claims do not begin with this batch", self.spec.name)
                    self._claims_uncertain = True
                return
            except LeaseLost:
                # Lapsed but not reaped: the claims are still this worker's, and so is the batch.
                self.ensure_registered(lost=worker)
                if self.lease.worker != worker:
                    _LOG.warning("%s: a batch of %d was left to others", self.spec.name, len(done))
                    return
            except BrokerUnavailable as error:
                _LOG.warning("%s: %s Trying again.", self.spec.name, error.message)
                if self.stopping.wait(_RECONNECT_S):
                    return

    def _measure(self, pictures: int, seconds: float) -> None:
        old = self._state
        rate, latency_ms = pictures / seconds, seconds * 1000
        if old.rate:
            rate = old.rate + _SMOOTHING * (rate - old.rate)
            latency_ms = old.latency_ms + _SMOOTHING * (latency_ms - old.latency_ms)
        self._state = replace(old, rate=round(rate, 3), latency_ms=round(latency_ms, 3))

    def _say(self, state: State) -> None:
        """Change the state and publish it; if Redis is away the keeper's next renewal does."""
        self._state = state
        try:
            self.announce()
        except BrokerUnavailable as error:
            _LOG.warning("%s: %s", self.spec.name, error.message)

    def announce(self) -> None:
        """Publish the state as it is now. Both threads call it: the later one must not be overtaken."""
        with self._announcing:
            self.lease.announce(self.state)

    def _leave(self) -> None:
        try:
            with self._registering:
                self.has_left = True  # from here on the keeper neither renews nor registers anew
                self.lease.leave()
        except ServiceError as error:
            _LOG.warning("%s: left without a word to Redis: %s", self.spec.name, error.message)
        else:
            _LOG.info("%s: worker %s has left", self.spec.name, self.lease.worker)
