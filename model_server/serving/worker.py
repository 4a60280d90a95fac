"""A worker: one version of a model, one lease; batches are claimed, run and completed.

Owns what those steps do, and what happens when Redis or the lease goes away between them (completion.py in
the last). Which of them overlap is pipeline.py's; lease_keeper.py renews the lease in a thread;
which version when is versioned_model.py's.
"""

import logging
import math
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
from broker.outage import Outage
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Engine, Outputs
from model_server.serving import batching, results
from model_server.serving.completion import Completion
from model_server.serving.device import Device
from model_server.serving.draining import DrainingJobs
from model_server.serving.pipeline import Pipeline
from model_server.serving.public_reasons import public
from model_server.serving.registration import RECONNECT_S, Registration
from model_server.serving.status import WorkerStatus

_LOG = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""An idle worker tries a claim this often even if no bell rings: what a lost wake-up costs at most."""

_LOOK_S: Final = 0.002
"""Between looks at a queue that fills up; Redis 6.2's BLPOP can't wait so briefly (0.003 s: up to 150 ms)."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may do: pictures a call, attempts a job, seconds for which a batch may wait for more."""

    batch_size: int
    max_attempts: int
    batch_wait_s: float = 0.0
    card_s: float = 0.0
    """For so long after another card came out jobs may come that were prepared by the last."""


class Worker:
    """Serves one version until it is told to stop. `device` is held while the network runs."""

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
        outage: Outage | None = None,
    ) -> None:
        self.spec = spec
        self.lease = lease
        self.outage = outage or Outage()
        """The process', so that all its workers tell of it together."""
        self.stopping = threading.Event()
        self.call_began: float | None = None
        """Monotonic time at which the running call of the network began; None between calls."""
        self.is_hung = False
        """Its call takes so long that nobody waits for it any more."""
        self.ready = threading.Event()
        """Set once it serves."""
        self._is_serving_out = False
        self._serves_out_until = math.inf
        self._load = load
        self._consumer = consumer
        self._clock = clock
        self._limits = limits
        self._ran = 0.0  # monotonic time at which the last batch had run
        self._engine: Engine | None = None
        self.version = spec.version
        self.standing = WorkerStatus(lease, spec.name, self.version, self.stopping)
        self.registration = Registration(spec.name, lease, self.standing, self.stopping, self.outage)
        self._completion = Completion(spec.name, lease, consumer, self.registration, self.outage)
        self._pipeline = Pipeline(
            spec.name, self._claim, self._run, self._completion.complete, device=device, gather=self._gather
        )
        self._claims_uncertain = False
        self.notice = "random weights: the labels mean nothing" if spec.weights == "random" else ""

    def stop(self, *, within_s: float = math.inf) -> None:
        """Tell it to go. Jobs that only it can run are run first, for so long at most."""
        self._serves_out_until = min(self._serves_out_until, time.monotonic() + within_s)
        self.stopping.set()

    def run(self) -> None:
        """Register, load, serve, leave. Returns once it was told to go."""
        self.registration.ensure()
        if not self.lease.worker:
            return  # told to stop while Redis was away
        self._engine, reason = load_or_reason(self.spec.name, self._load)
        if self._engine is None:
            told = public(reason, self.spec.folder)
            self.standing.say(State(WorkerState.FAILED, self.version, reason=told))
            _LOG.error("%s failed to load: %s", self.spec.name, reason)
            self.stopping.wait()
        else:
            self.standing.say(State(WorkerState.READY, self.version))
            _LOG.info("%s is ready (version %s, worker %s)", self.spec.name, self.version, self.lease.worker)
            self.ready.set()
            while not self.stopping.is_set():
                self.step()
            self._serve_out()
        self._leave()

    def step(self) -> int:
        """One batch run, the next claimed and the last completed meanwhile; else a wait of IDLE_S at most.

        Returns the number of jobs in the batch.
        """
        worker = self.lease.worker
        try:
            if self._claims_uncertain or self._completion.left_claims:
                self._pipeline.empty()
                self.lease.give_back()
                self._claims_uncertain = self._completion.left_claims = False
            jobs = self._pipeline.step()
            if not jobs:
                self._consumer.wait(IDLE_S)
        except LeaseLost:
            self.registration.ensure(lost=worker)
            return 0
        except BrokerUnavailable as error:
            self._claims_uncertain = True
            self.outage.failed(error, self.spec.name)
            self.stopping.wait(RECONNECT_S)
            return 0
        self.outage.succeeded(self.spec.name)
        return jobs

    def _serve_out(self) -> None:
        """Run what was prepared for this worker's input, where those that stay take another (claim.lua)."""
        # Said before others are asked: of two that go at once, one at least hears of the other.
        self.standing.say(self.standing.state)
        last = self._clock.now() + self._limits.card_s
        left = DrainingJobs(self.spec.input, self.lease, self._consumer, self._clock, last)
        self._is_serving_out = True
        try:
            while time.monotonic() < self._serves_out_until and left.may_come():
                self.step()
        except ServiceError as error:
            _LOG.warning("%s: %s", self.spec.name, error.message)
        self._is_serving_out = False

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
            self.stopping.wait(min(left_s, _LOOK_S))

    def _claim(self) -> batching.FormedBatch | None:
        if self.stopping.is_set() and not self._is_serving_out:
            return None
        worker, began = self.lease.worker, time.monotonic()
        claimed = self._consumer.claim(worker, self._limits.batch_size)
        if not claimed:
            return None
        now = self._clock.now()
        batch = batching.form(
            claimed,
            self.spec.input,
            now=now,
            max_attempts=self._limits.max_attempts,
            # A place in a picture that was scaled could be another place of the upload.
            only_places=self.spec.task != "classification",
        )
        return batching.FormedBatch(worker, batch, claimed_at=now, began=began)

    def _run(self, formed: batching.FormedBatch) -> results.BatchResults:
        if formed.worker != self.lease.worker:
            # Taken from this worker before it began them: others run them.
            return results.BatchResults(formed.worker, [])
        began = time.monotonic()
        runnable = formed.batch.runnable
        batching.run(runnable, self._predict)
        ran = time.monotonic()
        timings = Timings(batch=(began - formed.began) * 1000, model=(ran - began) * 1000)
        if runnable:
            busy_s = ran - max(formed.began, self._ran)
            self.standing.measure(len(runnable), busy_s, waited_s=formed.waited_s)
        self._ran = ran
        done = results.of(formed.batch, self.spec, self.version, self.notice, formed.claimed_at, timings)
        return results.BatchResults(formed.worker, done)

    def _predict(self, pictures: NDArray[np.uint8]) -> Outputs:
        if self._engine is None:
            raise RuntimeError("a batch before the engine was loaded. This is a bug")
        self.call_began = time.monotonic()
        try:
            return self._engine.predict(pictures)
        finally:
            self.call_began = None

    def _leave(self) -> None:
        self._pipeline.close()
        self.registration.leave()


def load_or_reason(model: str, load: Callable[[], Engine]) -> tuple[Engine | None, str]:
    """The engine; or None, and why it can't be had."""
    try:
        return load(), ""
    except ModelUnavailable as error:
        return None, error.message
    except Exception as error:  # noqa: BLE001 - whatever a network raises, the other models serve on
        _LOG.exception("%s can't be run", model)
        return None, f"{model}: the network can't be run as its model.toml says ({first_line(error)})."
