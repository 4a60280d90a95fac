"""A model server in a simulation: one batch runs, the next is claimed, the last is completed.

Owns the order of these steps, which is that of `Worker.step` and `Pipeline.step`, their threads as processes
of the simulation. How large a batch may be, how long it waits to fill up, and what a worker says of its pace
are the service's own functions. tests/benchmarks/simulation compares its batches with those of a real worker.
"""

import random
from dataclasses import dataclass

import simpy

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Machine, Steps, Thread, Window
from benchmarks.simulation.redis_queue import RedisQueue, SimulatedJob
from broker.messages import State, WorkerState
from model_server.serving.batching import wait_left_s
from model_server.serving.call_times import SMOOTHING, CallTimes
from model_server.serving.pipeline import LEAD_MARGIN, LOOK_S, WorkerLimits
from model_server.serving.status import BatchAverages
from model_server.serving.worker import IDLE_S


@dataclass(frozen=True, slots=True)
class SimulatedCall:
    """One call of the network."""

    began: float
    pictures: int


@dataclass(frozen=True, slots=True)
class ModelServerKind:
    """What all model servers of a run have in common."""

    network: NetworkSpeed
    limits: WorkerLimits
    costs: Costs
    lease_s: float


@dataclass(frozen=True, slots=True)
class _Claim:
    jobs: list[SimulatedJob]
    began: float
    waited_s: float


class SimulatedModelServer:
    """A process of its own, with a device for its network."""

    def __init__(
        self,
        env: simpy.Environment,
        window: Window,
        queue: RedisQueue,
        kind: ModelServerKind,
        *,
        number: int,
        chance: random.Random,
        machine: Machine | None,
    ) -> None:
        self._env = env
        self._window = window
        self._queue = queue
        self._number = number
        self._network = kind.network
        self._limits = kind.limits
        self._costs = kind.costs
        self._chance = chance
        self._times = CallTimes()
        self._averages = BatchAverages()
        self._ahead: simpy.Process | None = None
        self._completing: simpy.Process | None = None
        self._claim_s = self._picture_s = self._ran_at = 0.0
        self.thread = Thread(env, window, machine)
        """Its Python code beside the network."""
        self.device_s = 0.0
        """Seconds within the window in which the network ran."""
        self.calls: list[SimulatedCall] = []
        self.published = State(WorkerState.READY, "1")
        """What the web tier may know of its pace."""
        env.process(self._serve())
        env.process(self._keep(kind.lease_s / 3))

    def _keep(self, every_s: float) -> Steps[None]:
        while True:
            yield self._env.timeout(every_s)
            self._publish()

    def _publish(self) -> None:
        self.published = self._averages.of(self.published)

    def _serve(self) -> Steps[None]:
        while True:
            if not (yield from self._step()):
                yield from self._queue.wait(IDLE_S)

    def _step(self) -> Steps[int]:
        ahead, self._ahead = self._ahead, None
        was_asked, claim = (yield ahead) if ahead is not None else (False, None)
        if was_asked and claim is None:
            yield from self._settle()
            return 0
        if not was_asked:
            if self._limits.batch_wait_s:
                yield from self._let_fill()
            claim = yield from self._claim()
        if claim is None:
            yield from self._settle()
            return 0
        yield from self._run(claim)
        yield from self._settle()
        self._completing = self._env.process(self._complete(claim.jobs))
        return len(claim.jobs)

    def _claim(self) -> Steps[_Claim | None]:
        began = self._env.now
        most = self._times.most(self._limits.batch_size, within_s=self._limits.call_s)
        jobs = yield from self._queue.claim(most, self._number)
        if not jobs:
            return None
        yield from self.thread.run(self._costs.worker_s(len(jobs)) * len(jobs) / 2)
        now = self._env.now
        self._claim_s += SMOOTHING * (now - began - self._claim_s)
        waited_s = sum(now - job.accepted_at for job in jobs) / len(jobs)
        return _Claim(jobs, began, max(0.0, waited_s))

    def _claim_ahead(self, ends_at: float, is_free: simpy.Event) -> Steps[tuple[bool, _Claim | None]]:
        pause_s = ends_at - LEAD_MARGIN * self._claim_s - self._env.now
        if pause_s > 0:
            yield is_free | self._env.timeout(pause_s)
        if self._limits.batch_wait_s:
            yield from self._let_fill()
        return True, (yield from self._claim())

    def _let_fill(self) -> Steps[None]:
        seen = self._env.now
        while True:
            waiting = yield from self._queue.ask()
            left_s = wait_left_s(
                waiting,
                self._limits.batch_size,
                seen=seen,
                now=self._env.now,
                wait_s=self._limits.batch_wait_s,
            )
            if not left_s:
                return
            yield self._env.timeout(min(left_s, LOOK_S))

    def _run(self, claim: _Claim) -> Steps[None]:
        began, is_free = self._env.now, self._env.event()
        expected_s = len(claim.jobs) * self._picture_s
        self._ahead = self._env.process(self._claim_ahead(began + expected_s, is_free))
        wanted = [job for job in claim.jobs if job.deadline > began]
        if wanted:
            yield self._env.timeout(self._network.call_s(len(wanted), self._chance))
            self._measure(claim, began, len(wanted))
            for job in wanted:
                job.has_run = True
        is_free.succeed()

    def _measure(self, claim: _Claim, began: float, pictures: int) -> None:
        ran_at = self._env.now
        self.calls.append(SimulatedCall(began, pictures))
        self.device_s += self._window.part_of(began, ran_at)
        share_s = (ran_at - began) / pictures
        self._picture_s += (SMOOTHING if self._picture_s else 1.0) * (share_s - self._picture_s)
        self._times.add(pictures, ran_at - began)
        busy_s = ran_at - max(claim.began, self._ran_at)
        is_first = not self._averages.rate
        self._averages.add(pictures, max(busy_s, 1e-9), waited_s=claim.waited_s)
        if is_first:
            self._publish()
        self._ran_at = ran_at

    def _settle(self) -> Steps[None]:
        completing, self._completing = self._completing, None
        if completing is not None:
            yield completing

    def _complete(self, jobs: list[SimulatedJob]) -> Steps[None]:
        yield from self.thread.run(self._costs.worker_s(len(jobs)) * len(jobs) / 2)
        yield from self._queue.complete(jobs)
