"""A worker: one model, one lease; batches are claimed, run and completed.

Owns what those steps do, and what happens when Redis or the lease goes away between them. Which of them
overlap is pipeline.py's; the lease is kept alive by keeper.py, from another thread.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from broker.clock import RedisClock
from broker.consumer import Consumer
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
from model_server.device import Device
from model_server.engines import Engine, Outputs
from model_server.pipeline import Pipeline
from model_server.standing import Standing

_LOG = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""An idle worker tries a claim this often even if no bell rings: what a lost wake-up costs at most."""

_RECONNECT_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may do: pictures a call, attempts a job, seconds for which a batch may wait for more."""

    batch_size: int
    max_attempts: int
    batch_wait_s: float = 0.0


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
        device: Device,
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
        self._pipeline = Pipeline(
            spec.name, self._claim, self._run, self._complete, device=device, gather=self._gather
        )
        self._ran = 0.0  # monotonic time at which the last batch had run
        self._engine: Engine | None = None
        self._version = spec.version
        self.standing = Standing(lease, spec.name, self._version, stopping)
        self._registering = threading.Lock()
        self.has_left = False
        self._claims_uncertain = False
        self.notice = "random weights: the labels mean nothing" if spec.weights == "random" else ""

    def run(self) -> None:
        """Register, load, serve, leave. Returns once `stopping` is set."""
        self.ensure_registered()
        if not self.lease.worker:
            return  # told to stop while Redis was away
        reason = self._failure_to_load()
        if reason:
            self.standing.say(State(WorkerState.FAILED, self._version, reason=reason))
            _LOG.error("%s failed to load: %s", self.spec.name, reason)
            self.stopping.wait()
        else:
            self.standing.say(State(WorkerState.READY, self._version))
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
        """One batch run, the next claimed and the last completed meanwhile; else a wait of IDLE_S at most.

        Returns the number of jobs in the batch.
        """
        worker = self.lease.worker
        try:
            if self._claims_uncertain:
                self._pipeline.empty()
                self.lease.give_back()
                self._claims_uncertain = False
            jobs = self._pipeline.step()
            if not jobs:
                self._consumer.wait(IDLE_S)
        except LeaseLost:
            self.ensure_registered(lost=worker)
            return 0
        except BrokerUnavailable as error:
            self._claims_uncertain = True
            _LOG.warning("%s: %s Trying again.", self.spec.name, error.message)
            self.stopping.wait(_RECONNECT_S)
            return 0
        return jobs

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
                        worker = self.lease.register(self.standing.state)
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

    def _gather(self) -> None:
        """Let a batch fill up in the queue, where others can still take it, if BATCH_WAIT_MS says so."""
        if not self._limits.batch_wait_s:
            return
        seen = time.monotonic()
        while not self.stopping.is_set():
            waiting, now = self._consumer.waiting(), time.monotonic()
            left_s = batching.wait_left_s(
                waiting, self._limits.batch_size, seen=seen, now=now, wait_s=self._limits.batch_wait_s
            )
            if not left_s:
                return
            self._consumer.wait(min(left_s, IDLE_S))

    def _claim(self) -> batching.Formed | None:
        if self.stopping.is_set():
            return None
        worker, began = self.lease.worker, time.monotonic()
        claimed = self._consumer.claim(worker, self._limits.batch_size)
        if not claimed:
            return None
        now = self._clock.now()
        batch = batching.form(claimed, self.spec.input, now=now, max_attempts=self._limits.max_attempts)
        return batching.Formed(worker, batch, claimed_at=now, began=began)

    def _run(self, formed: batching.Formed) -> outcomes.Done:
        if formed.worker != self.lease.worker:
            # Taken from this worker before it began them: others run them.
            return outcomes.Done(formed.worker, [])
        began = time.monotonic()
        runnable = formed.batch.runnable
        batching.run(runnable, self._predict)
        ran = time.monotonic()
        timings = Timings(batch=(began - formed.began) * 1000, model=(ran - began) * 1000)
        if runnable:
            self.standing.measure(len(runnable), ran - max(formed.began, self._ran))
        self._ran = ran
        done = outcomes.of(formed.batch, self.spec, self._version, self.notice, formed.claimed_at, timings)
        return outcomes.Done(formed.worker, done)

    def _predict(self, pictures: NDArray[np.uint8]) -> Outputs:
        if self._engine is None:
            raise RuntimeError("a batch before the engine was loaded. This is a bug")
        self.call_began = time.monotonic()
        try:
            return self._engine.predict(pictures)
        finally:
            self.call_began = None

    def _complete(self, done: outcomes.Done) -> None:
        """Complete the batch, through an outage if need be. Dropped only when the lease is another's."""
        worker = done.worker
        while done.outcomes:
            try:
                if self._consumer.complete(worker, done.outcomes):
                    for dead in done.dead:
                        _LOG.warning(
                            "%s: job %s is a dead letter: %s", self.spec.name, dead.id, dead.dead_reason
                        )
                else:
                    # Done already, its reply was lost; or a killed Redis forgot its last writes and the
                    # claims begin with an older batch. Giving back what is there mends both.
                    _LOG.warning("%s: the claims do not begin with this batch", self.spec.name)
                    self._claims_uncertain = True
                return
            except LeaseLost:
                # Lapsed but not reaped: the claims are still this worker's, and so is the batch.
                self.ensure_registered(lost=worker)
                if self.lease.worker != worker:
                    _LOG.warning("%s: a batch of %d was left to others", self.spec.name, len(done.outcomes))
                    return
            except BrokerUnavailable as error:
                # While it drains as well: the process ends at its drain's deadline, whoever still waits here.
                _LOG.warning("%s: %s Trying again.", self.spec.name, error.message)
                time.sleep(_RECONNECT_S)

    def _leave(self) -> None:
        self._pipeline.close()
        try:
            with self._registering:
                self.has_left = True  # from here on the keeper neither renews nor registers anew
                with contextlib.suppress(LeaseLost):
                    self.lease.renew()  # lapsed but not reaped, it could not give its claims back
                self.lease.leave()
        except ServiceError as error:
            _LOG.warning("%s: left without a word to Redis: %s", self.spec.name, error.message)
        else:
            _LOG.info("%s: worker %s has left", self.spec.name, self.lease.worker)
