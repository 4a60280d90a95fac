"""A worker's pipeline: while one batch runs, the next is claimed and the last completed.

Owns the three steps of a batch, their threads and order, and what happens when Redis or the lease goes away
between them. Which jobs of a claim run is batching.py's, the words of a result are results.py's; registration
and the loop around it are worker.py's.
"""

import contextlib
import logging
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any, Final

from numpy.typing import NDArray

from broker.clock import RedisClock
from broker.consumer import CompletedJob, Consumer
from broker.errors import BrokerUnavailable, LeaseLost, ServiceError
from broker.messages import Timings
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.engine import Engine, Outputs
from model_server.engines.hooked import HookedEngine
from model_server.serving import batching, metrics, results, traces
from model_server.serving.batching import Batch
from model_server.serving.call_times import SMOOTHING, CallTimes
from model_server.serving.device import Device
from model_server.serving.queue_parts import BatchShare, QueueParts
from model_server.serving.registration import RECONNECT_S, Registration
from model_server.serving.results import ServedModel
from model_server.serving.traces import BatchTrace
from telemetry import logs, tracing

_LOG = logging.getLogger(__name__)

LEAD_MARGIN: Final = 1.5
"""A claim begins so many times before the device is free as it took last: late it costs idle time of the
device, early only that a job waits here and not in the queue."""

LOOK_S: Final = 0.002
"""Between looks at a queue that fills up; Redis 6.2's BLPOP can't wait so briefly (0.003 s: up to 150 ms)."""


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker may do: pictures a call, attempts a job, seconds for which a batch may wait for more."""

    batch_size: int
    max_attempts: int
    batch_wait_s: float = 0.0
    call_s: float = math.inf
    """Seconds that a call of the network may take, by its pace so far: a slow one gets smaller batches."""
    card_s: float = 0.0
    """For so long after another card came out jobs may come that were prepared by the last."""


class Pipeline:
    """One claimed batch ahead, one on the device, one being completed; never more.

    `step` raises the ServiceError of a claim; `run` and `complete` raise only for bugs. Batches are completed
    in the order of their claims. `step` and `give_back` are one thread's. `engine` must be set before the
    first step.
    """

    def __init__(
        self,
        spec: ModelSpec,
        registration: Registration,
        consumer: Consumer,
        clock: RedisClock,
        *,
        limits: WorkerLimits,
        device: Device,
    ) -> None:
        self.engine: Engine | None = None
        self.drains = False
        """Claims on, although the worker is stopping."""
        self.times = CallTimes()
        self.spec = spec
        """The model, with the engine that its results name."""
        self._version = spec.version
        self._notice = "random weights: the labels mean nothing" if spec.weights == "random" else ""
        self._registration = registration
        self._lease = registration.lease
        self._status = registration.status
        self.parts = QueueParts(registration, consumer, spec.name)
        self._clock = clock
        self.limits = limits
        self.device = device
        self._claimer = ThreadPoolExecutor(1, f"claimer-{spec.name}")
        self._ahead: Future[tuple[bool, Batch | None]] | None = None
        """Whether the queue was asked, and what it gave."""
        self._is_free = Event()
        self._sibling_is_next = False
        self._claim_s = 0.0
        self._ran_at = 0.0
        """Monotonic time at which the last batch had run."""
        self._began = 0.0
        """Monotonic time at which it began to run."""

    def step(self) -> int:
        """Run one batch, if there is one. Returns its size; 0: everything claimed is completed by now."""
        ahead, self._ahead = self._ahead, None
        was_asked, batch = ahead.result() if ahead is not None else (self.parts.is_emptied, None)
        self.parts.mend(but=batch.shares if batch is not None else ())
        if was_asked and batch is None:
            # An idle worker does not queue for the device: a sibling's call would only delay the next job.
            self.parts.settle()
            return 0
        if not was_asked and self.limits.batch_wait_s:
            self._let_fill()
        outcomes: list[CompletedJob] = []
        is_brief = False
        with self.device:
            # The device first: a batch claimed while a sibling's runs would wait where others can't take it.
            if not was_asked:
                batch = self.claim()
            if batch is not None:
                self._is_free.clear()
                self._sibling_is_next = False
                call_s = len(batch.entries) * self.times.picture_s
                # A call that ends before a claim does hides little of it, and less than other threads cost.
                is_brief = 0 < call_s < self._claim_s and self.parts.shards == 1
                if not (batch.runs_alone or is_brief):
                    self._ahead = self._claimer.submit(self._claim_ahead, time.monotonic() + call_s)
                try:
                    outcomes = self.run(batch)
                finally:
                    self._sibling_is_next = self.device.waiting > 0
                    self._is_free.set()
        self.parts.settle()
        if batch is None:
            return 0
        trace = None
        if batch.may_have_spans and outcomes:
            trace = traces.of(batch, self.spec, outcomes, began=self._began, ran_at=self._ran_at)
        for share in batch.shares:
            own, outcomes = outcomes[: share.jobs], outcomes[share.jobs :]
            if not own:
                share.part.add(-share.jobs)  # others run them
                continue
            if is_brief:  # none before it is being completed
                self.complete(share, own, trace)
            else:
                share.part.complete(partial(self.complete, share, own, trace))
            trace = None  # the first writes all of it
        return len(batch.entries)

    def claim(self) -> Batch | None:
        """Claim a batch and judge its jobs; None where the queue is empty. Raises ServiceError."""
        if self._registration.stopping.is_set() and not self.drains:
            return None
        began = time.monotonic()
        most = self.times.most(self.limits.batch_size, within_s=self.limits.call_s)
        # An owner's single picture waits for the batches of those with many.
        fair = self.times.efficient(most)
        is_shared = self.device.owners.several(began)
        taken = self.parts.claim(fair if is_shared else most, shared=fair)
        if not taken:
            return None
        is_shared |= self.parts.owners > 1
        claimed = [job for each in taken for job in each.jobs]
        metrics.claimed(
            self.spec.name,
            len(claimed),
            most=fair if is_shared else most,
            batch_size=self.limits.batch_size,
            is_shared=is_shared and fair < most,
            is_recovered=any(job.attempts for job in claimed),
        )
        moment, now = time.monotonic(), self._clock.now()
        batch = batching.form(
            claimed,
            self.spec,
            began=began,
            now=now,
            max_attempts=self.limits.max_attempts,
            offset_s=now - moment,
            shift_s=self._clock.shift_s if self._clock.has_stepped else None,
            shares=tuple(BatchShare(each.part, each.worker, len(each.jobs)) for each in taken),
        )
        lanes = {entry.job.lane for entry in batch.entries if entry.job is not None}
        self.device.owners.add(lanes, began, beside=self.parts.owners > 1)
        self._claim_s += SMOOTHING * (time.monotonic() - began - self._claim_s)
        return batch

    def run(self, batch: Batch) -> list[CompletedJob]:
        """Run the network; what became of each job, in claim order.

        Nothing where the batch was taken from this worker before it began: then others run it.
        """
        if all(share.part.lease.worker != share.worker for share in batch.shares):
            return []
        hooked = self.engine if isinstance(self.engine, HookedEngine) else None
        jobs = [entry.job for entry in batch.entries if entry.job is not None]
        about = {
            "model": self.spec.name,
            "job_ids": [entry.id for entry in batch.entries],
            "request_ids": [job.request_id for job in jobs if job.request_id],
        }
        before = logs.SUBJECT.set(about)  # for what an engine or a model's own code logs meanwhile
        try:
            began = time.monotonic()
            if hooked is not None and hooked.prepares:
                batching.prepare(batch.entries, hooked.prepare, now=time.monotonic)
            pictures = batching.run(batch.entries, self._predict, now=time.monotonic)
            ran_at = time.monotonic()
            if pictures:
                averages, is_first = self._status.averages, not self._status.averages.rate
                self.times.add(pictures, ran_at - began)
                averages.add(pictures, ran_at - max(batch.began, self._ran_at), waited_s=batch.waited_s)
                metrics.ran(self.spec.name, pictures, call_s=ran_at - began, formed_s=began - batch.began)
                if is_first:
                    # Until frontends know the pace, they let in more than can be answered.
                    self._status.try_announce()
            self._began, self._ran_at = began, ran_at
            timings = Timings(batch=(began - batch.began) * 1000, model=(ran_at - began) * 1000)
            names = self.engine.outputs.served if self.engine is not None else ()
            read = None if hooked is None else hooked.read
            model = ServedModel(self.spec, self._version, self._notice, names, read)
            return [
                results.completed(entry, model, claimed_at=batch.claimed_at, timings=timings)
                for entry in batch.entries
            ]
        finally:
            logs.SUBJECT.reset(before)

    def complete(
        self, share: BatchShare, outcomes: list[CompletedJob], trace: BatchTrace | None = None
    ) -> None:
        """Write a part's results and take its claims away, through an outage; not without the lease."""
        began, part, registration = time.monotonic(), share.part, share.part.registration
        completed: list[CompletedJob] | None = outcomes
        while completed:
            try:
                if not part.consumer.complete(share.worker, outcomes):
                    # Done already, its reply was lost; or a killed Redis forgot its last writes and the
                    # claims begin with an older batch. Giving back what is there puts both right.
                    self._warn(outcomes, "the claims do not begin with this batch")
                    part.is_uncertain = True
                    completed = []
                registration.outage.succeeded(self.spec.name)
                break
            except LeaseLost:
                # Lapsed but not reaped: the claims are still this worker's, and so is the batch.
                registration.ensure(lost=share.worker)
                if part.lease.worker != share.worker:
                    self._warn(outcomes, f"a batch of {len(outcomes)} was left to others")
                    completed = None
            except BrokerUnavailable as error:
                # While it drains as well: the process ends at its drain's deadline, whoever still waits here.
                registration.outage.failed(error, self.spec.name)
                part.stuck()
                time.sleep(RECONNECT_S)
        if part.held:
            part.add(-share.jobs)
        part.is_stuck = False
        if trace is not None:
            trace.write(began=began, is_left=completed is None)
        if completed:
            metrics.ended(self.spec.name, completed)
            for job in completed:
                if job.dead_reason:
                    self._tell_dead(job)

    def give_back(self) -> None:
        """Return what is claimed and not begun to the queue. Raises ServiceError."""
        self._empty()
        self._lease.give_back()
        self.parts.own.is_uncertain = self.parts.is_emptied = False

    def close(self) -> None:
        """Empty it, and end its threads. What was claimed ahead is left claimed."""
        self._empty()
        self._claimer.shutdown()
        self.parts.leave()
        self.parts.close()
        if isinstance(self.engine, HookedEngine):
            self.engine.close()

    def _tell_dead(self, job: CompletedJob) -> None:
        _LOG.warning(
            "%s: job %s is a dead letter: %s (request %s)",
            *(self.spec.name, job.id, job.dead_reason, job.request_id or "unknown"),
            extra=logs.about(
                job_id=job.id,
                request_id=job.request_id,
                model=self.spec.name,
                trace_id=tracing.trace_id(job.traceparent),
            ),
        )

    def _warn(self, outcomes: list[CompletedJob], message: str) -> None:
        """Log what happened to a batch, whose jobs and requests the line names."""
        about = logs.about(
            model=self.spec.name,
            job_ids=[each.id for each in outcomes],
            request_ids=[each.request_id for each in outcomes if each.request_id],
        )
        _LOG.warning("%s: %s", self.spec.name, message, extra=about)

    def _empty(self) -> None:
        """Wait until nothing is on its way, and forget what was claimed ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with contextlib.suppress(ServiceError):  # whatever it claimed is given back
                ahead.result()
        self.parts.settle()

    def _claim_ahead(self, ends_at: float) -> tuple[bool, Batch | None]:
        """Claim the next batch when the running call is about to end, or has ended."""
        self._is_free.wait(max(0.0, ends_at - LEAD_MARGIN * self._claim_s - time.monotonic()))
        if self.limits.batch_wait_s:
            self._let_fill()
        if self._sibling_is_next or self.device.waiting:
            return False, None  # another process may take the jobs meanwhile
        return True, self.claim()

    def _let_fill(self) -> None:
        """Let a batch fill up in the queue, where others can still take it, for BATCH_WAIT_MS at most."""
        seen = time.monotonic()
        is_shared = self.device.owners.several(seen)
        size = self.times.efficient(self.limits.batch_size) if is_shared else self.limits.batch_size
        while not self._registration.stopping.is_set():
            left_s = batching.wait_left_s(
                self.parts.waiting(),
                size,
                seen=seen,
                now=time.monotonic(),
                wait_s=self.limits.batch_wait_s,
            )
            if not left_s:
                return
            self._registration.stopping.wait(min(left_s, LOOK_S))

    def _predict(self, pictures: NDArray[Any]) -> Outputs:
        if self.engine is None:
            raise RuntimeError("a batch before the engine was loaded. This is a bug")
        if isinstance(self.engine, HookedEngine) and self.engine.limits_itself:
            return self.engine.predict(pictures)  # a restart may take longer than a call of a network may
        self._status.call_began = time.monotonic()
        try:
            return self.engine.predict(pictures)
        finally:
            self._status.call_began = None
