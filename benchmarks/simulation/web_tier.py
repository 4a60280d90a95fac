"""The web tier in a simulation: a picture comes, is admitted, decoded and enqueued, waits, and is answered.

Owns the order of these steps, which is that of `JobClient.submit_once` and `wait`. Places, threads, admission
and believed refusals are the service's own code. Knows no HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import simpy

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.parts import Level, Machine, Steps, Thread, Turns, Window
from benchmarks.simulation.redis_queue import RedisQueue, SimulatedJob
from broker import admission
from broker.errors import Overloaded
from broker.lanes import QueueLengths, of_lists
from broker.messages import Pace
from broker.registry import SNAPSHOT_S
from web.overload import ANY_MODEL, RecentRefusals

MODEL: Final = "simulated"

_FULL_S: Final = 0.1
"""For so long all places are believed to be taken, as in web/jobs.py."""

_BEFORE_DECODING: Final = 0.5
"""Which part of Python's share comes before the picture is decoded: it is received and parsed."""


class PictureFate(StrEnum):
    """What became of a picture."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """503, at once."""
    LATE = "late"
    """504: no answer within REQUEST_TIMEOUT_S."""


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """A picture that has its answer, whichever."""

    arrived_at: float
    answered_at: float
    fate: PictureFate

    @property
    def latency_s(self) -> float:
        """From its arrival."""
        return self.answered_at - self.arrived_at


@dataclass(frozen=True, slots=True)
class WebLimits:
    """Of the settings, what the web tier heeds."""

    room: int
    """Jobs that the queue takes, by number and by bytes."""
    timeout_s: float
    requests: int
    """Places of a process."""


class WebProcess:
    """One Gunicorn process."""

    def __init__(
        self,
        env: simpy.Environment,
        window: Window,
        machine: Machine,
        queue: RedisQueue,
        *,
        costs: Costs,
        limits: WebLimits,
        pace: Callable[[], Pace],
    ) -> None:
        self._env = env
        self._queue = queue
        self._machine = machine
        self._costs = costs
        self._limits = limits
        self._read_pace = pace
        self._pace = pace()
        self._pace_at = 0.0
        self._pushed = (float("-inf"), 0)
        """When a job was last pushed from here, and how long the queue was then."""
        self._refusals = RecentRefusals(monotonic=lambda: env.now)
        self._decoders = Turns(env, machine.cores)
        self.thread = Thread(env, window, machine)
        """Python's lock: all of the process but decoding."""
        self.places = Level(env, window)

    def answer(self, answers: list[SimulatedAnswer]) -> Steps[None]:
        """A picture's whole life, which ends as one of `answers`."""
        arrived_at = self._env.now
        if self._refusals.of(MODEL) is not None:
            fate = yield from self._refuse()
        elif self.places.value >= self._limits.requests:
            self._refusals.note(Overloaded("", valid_s=_FULL_S), ANY_MODEL)
            fate = yield from self._refuse()
        else:
            self.places.add(1)
            fate = yield from self._in_place(arrived_at)
            self.places.add(-1)
        answers.append(SimulatedAnswer(arrived_at, self._env.now, fate))

    def _refuse(self) -> Steps[PictureFate]:
        yield from self.thread.run(self._costs.refusal_s)
        return PictureFate.REFUSED

    def _in_place(self, arrived_at: float) -> Steps[PictureFate]:
        yield from self.thread.run(_BEFORE_DECODING * self._costs.submit_s)
        try:
            job = yield from self._submit(arrived_at)
        except Overloaded as refusal:
            self._refusals.note(refusal, MODEL, lane="")
            return (yield from self._refuse())
        if not job.done.triggered:
            late = self._env.timeout(max(0.0, job.deadline - self._env.now))
            late.callbacks.append(lambda _: _give_up(job))
        if not job.done.processed:
            yield job.done
        yield from self.thread.run(self._costs.reply_s)
        return PictureFate.ANSWERED if job.is_answered else PictureFate.LATE

    def _submit(self, arrived_at: float) -> Steps[SimulatedJob]:
        """Raises Overloaded."""
        deadline = arrived_at + self._limits.timeout_s
        yield from self._admit(deadline)
        began = self._env.now
        yield from self._decoders.take()
        try:
            if self._env.now - began > admission.LENGTH_VALID_S:
                yield from self._admit(deadline)
            yield from self._machine.run(self._costs.decode_s)
            yield from self.thread.run((1 - _BEFORE_DECODING) * self._costs.submit_s)
            job = SimulatedJob(arrived_at, deadline, self._env.event())
            length = yield from self._queue.push(job)
            self._pushed = self._env.now, length
        finally:
            self._decoders.leave()
        return job

    def _admit(self, deadline: float) -> Steps[None]:
        """Raises Overloaded."""
        room, timeout_s, pace = self._limits.room, deadline - self._env.now, self._snapshot()
        pushed_at, length = self._pushed
        # As Producer does, which remembers what was there at its last push.
        told = QueueLengths(length, room, 0, 0, length, room)
        if admission.is_believed(length, age_s=self._env.now - pushed_at, room=room) and admission.is_in_time(
            told, pace, timeout_s=timeout_s
        ):
            return
        waiting = yield from self._queue.ask()
        admission.judge(MODEL, of_lists(waiting, 0), pace, room=room, timeout_s=timeout_s)

    def _snapshot(self) -> Pace:
        if self._env.now - self._pace_at >= SNAPSHOT_S:
            self._pace, self._pace_at = self._read_pace(), self._env.now
        return self._pace


def _give_up(job: SimulatedJob) -> None:
    """The client's time is over; a worker sees by the deadline that nobody waits for the job."""
    if not job.done.triggered:
        job.done.succeed()
