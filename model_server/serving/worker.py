"""A worker: one version of a model, one lease; it registers, loads, serves and leaves.

Owns that life, and the loop around the pipeline, which claims, runs and completes batches. lease_keeper.py
renews the lease in a thread; which version when is versioned_model.py's.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from broker.clock import RedisClock
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable, LeaseLost, ModelUnavailable, ServiceError, first_line
from broker.lease import Lease
from broker.messages import State, WorkerState
from broker.outage import Outage
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.engine import Engine
from model_server.serving import metrics
from model_server.serving.device import Device
from model_server.serving.draining import DrainingJobs
from model_server.serving.pipeline import Pipeline, WorkerLimits
from model_server.serving.public_reasons import public
from model_server.serving.registration import RECONNECT_S, Registration
from model_server.serving.status import WorkerStatus

_LOG = logging.getLogger(__name__)

IDLE_S: Final = 1.0
"""An idle worker tries a claim this often even if no bell rings: what a lost wake-up costs at most."""


class Worker:
    """Serves one version until it is stopped. `device` is held while the network runs."""

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
        self.version = spec.version
        self.lease = lease
        self.outage = outage or Outage()
        """The process', so that all its workers tell of it together."""
        self.stopping = threading.Event()
        self.ready = threading.Event()
        """Set once it serves."""
        self.status = WorkerStatus(lease, spec.name, self.version, self.stopping)
        self.registration = Registration(spec.name, lease, self.status, self.stopping, self.outage)
        self.pipeline = Pipeline(spec, self.registration, consumer, clock, limits=limits, device=device)
        self._drains_until = math.inf
        self.load = load
        self._clock = clock
        self._card_s = limits.card_s

    def stop(self, *, within_s: float = math.inf) -> None:
        """Have it go. Jobs that only it can run are run first, for so long at most."""
        self._drains_until = min(self._drains_until, time.monotonic() + within_s)
        self.stopping.set()

    def run(self) -> None:
        """Register, load, serve, leave. Returns once it was stopped."""
        metrics.begin(self.spec.name)
        self.registration.ensure()
        if not self.lease.worker:
            return  # stopped while Redis was away
        self.pipeline.parts.grow()
        engine, reason = load_or_reason(self.spec.name, self.load)
        if engine is None:
            shown = public(reason, self.spec.folder)
            self.status.publish(State(WorkerState.FAILED, self.version, reason=shown))
            _LOG.error("%s failed to load: %s", self.spec.name, reason)
            self.stopping.wait()
        else:
            self._serve_with(engine)
            self.status.publish(State(WorkerState.READY, self.version))
            _LOG.info("%s is ready (version %s, worker %s)", self.spec.name, self.version, self.lease.worker)
            self.ready.set()
            while not self.stopping.is_set():
                self.step()
            self._drain()
        self.leave()

    def _serve_with(self, engine: Engine) -> None:
        """Take the engine; if it is the fallback, the card and the results name it from now on."""
        self.pipeline.engine = engine
        if (engine.name, engine.precision) != (self.spec.engine, self.spec.precision):
            self.spec = replace(self.spec, engine=engine.name, precision=engine.precision)
            self.pipeline.spec = self.spec
            self.lease.card = replace(self.lease.card, engine=engine.name, precision=engine.precision)

    def step(self) -> int:
        """One batch run, the next claimed and the last completed meanwhile; else a wait of IDLE_S at most.

        Returns the number of jobs in the batch.
        """
        worker, parts = self.lease.worker, self.pipeline.parts
        try:
            if self.lease.shards_served > parts.shards:
                parts.grow()
            if parts.own.is_uncertain and parts.shards == 1:  # shards see to it themselves
                self.pipeline.give_back()
            jobs = self.pipeline.step()
            if not jobs and not parts.wait(IDLE_S) and parts.find_forgotten():
                # It has nothing in hand: Redis forgot that it completed these, in a fail-over or a crash.
                _LOG.warning("%s: Redis has forgotten completed jobs: they run again", self.spec.name)
        except LeaseLost:
            self.registration.ensure(lost=worker)
            return 0
        except BrokerUnavailable as error:
            parts.own.is_uncertain = True
            self.outage.failed(error, self.spec.name)
            self.stopping.wait(RECONNECT_S)
            return 0
        self.outage.succeeded(self.spec.name)
        return jobs

    def leave(self) -> None:
        """Complete what has run, give back what has not, and end the lease."""
        self.pipeline.close()
        self.registration.leave()

    def _drain(self) -> None:
        """Run what was prepared for this worker's input, where those that stay take another (claim.lua)."""
        # Said before others are asked: of two that go at once, one at least hears of the other.
        self.status.publish(self.status.state)
        last = self._clock.now() + self._card_s
        left = DrainingJobs(self.spec.input, self.lease, self.pipeline.parts, self._clock, last)
        self.pipeline.drains = True
        try:
            while time.monotonic() < self._drains_until and left.may_come():
                self.step()
        except ServiceError as error:
            _LOG.warning("%s: %s", self.spec.name, error.detail)
        self.pipeline.drains = False


def load_or_reason(model: str, load: Callable[[], Engine]) -> tuple[Engine | None, str]:
    """Load the engine; None and the reason where that fails."""
    began = time.monotonic()
    try:
        return load(), ""
    except ModelUnavailable as error:
        return None, error.message
    except Exception as error:  # noqa: BLE001 - whatever a network raises, the other models serve on
        _LOG.exception("%s can't be run", model)
        return None, f"{model}: the network can't be run as its model.toml says ({first_line(error)})."
    finally:
        metrics.loaded(model, time.monotonic() - began)
