"""A model's queue in Redis: its shards, the nodes that they are on, the bell.

Owns what a command costs its node and when its effect is seen. Which jobs become a batch, and whether one is
accepted, is the service's own code (model_server.py, web_tier.py).
"""

import math
from collections import Counter, deque
from dataclasses import dataclass

import simpy

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.parts import Level, Machine, Steps, Thread, Window
from broker.lease import BELL_TOKENS


@dataclass(slots=True)
class SimulatedJob:
    """A picture in the queue, or on its way through a batch."""

    arrived_at: float
    deadline: float
    done: simpy.Event
    """Wakes the waiting request: its result has come, or its time is over."""
    accepted_at: float = math.inf
    shard: int = 0
    has_run: bool = False
    is_answered: bool = False
    """Its result was on time."""


class RedisNode:
    """One Redis process: a thread that runs one command after the other."""

    def __init__(self, env: simpy.Environment, window: Window, machine: Machine | None) -> None:
        self.thread = Thread(env, window, machine)


class _Shard:
    def __init__(self, node: RedisNode) -> None:
        self.node = node
        self.jobs: deque[SimulatedJob] = deque()
        self.bell = 0


class RedisQueue:
    """The queue as both tiers use it; each method takes the time that its commands take."""

    def __init__(
        self,
        env: simpy.Environment,
        window: Window,
        nodes: list[RedisNode],
        *,
        shards: int,
        costs: Costs,
        round_trip_s: float,
    ) -> None:
        self._env = env
        self._shards = [_Shard(nodes[number % len(nodes)]) for number in range(shards)]
        self._costs = costs
        self._one_way_s = round_trip_s / 2
        self._waiters: deque[simpy.Event] = deque()
        """Idle workers, the longest first: Redis wakes them in that order."""
        self._next = 0
        self.length = Level(env, window)

    def ask(self) -> Steps[int]:
        """How long the queue is."""
        shard = self._shards[self._next % len(self._shards)]
        yield from self._command(shard, self._costs.ask_s)
        length = self.length.value
        yield from self._way()
        return length

    def push(self, job: SimulatedJob) -> Steps[int]:
        """Append a job and ring the bell. Returns how long the queue is then."""
        self._next += 1  # a job's shard follows from its id: as even as turns, if less regular
        job.shard = self._next % len(self._shards)
        shard = self._shards[job.shard]
        yield from self._command(shard, self._costs.enqueue_s)
        self._append(shard, job)
        yield from self._way()
        return self.length.value

    def claim(self, most: int, first: int) -> Steps[list[SimulatedJob]]:
        """Take up to `most` jobs, the oldest first, from shard `first` on."""
        taken: list[SimulatedJob] = []
        for number in range(len(self._shards)):
            shard = self._shards[(first + number) % len(self._shards)]
            if len(self._shards) > 1 and not shard.jobs and (taken or number + 1 < len(self._shards)):
                continue  # its bell did not ring
            found = yield from self._claim_of(shard, most - len(taken))
            taken += found
            if len(taken) >= most:
                break
        return taken

    def complete(self, jobs: list[SimulatedJob]) -> Steps[None]:
        """Write the results of a batch, of each shard by itself, and tell the web tier."""
        for number, count in Counter(job.shard for job in jobs).items():
            cost = self._costs.complete_s + count * self._costs.complete_job_s
            yield from self._command(self._shards[number], cost)
            results = [job for job in jobs if job.shard == number and job.has_run]
            yield from self._way()  # of the reply, and of the messages
            for job in results:
                if not job.done.triggered:
                    job.is_answered = True
                    job.done.succeed()

    def wait(self, timeout_s: float) -> Steps[None]:
        """Sleep until the bell rings, or for so long."""
        yield from self._command(self._shards[0], self._costs.wait_s)
        for shard in self._shards:
            if shard.bell:
                shard.bell -= 1
                break
        else:
            rung = self._env.event()
            self._waiters.append(rung)
            yield rung | self._env.timeout(timeout_s)
            if not rung.triggered:
                self._waiters.remove(rung)
        yield from self._way()

    def _append(self, shard: _Shard, job: SimulatedJob) -> None:
        job.accepted_at = self._env.now
        shard.jobs.append(job)
        self.length.add(1)
        if self._waiters:
            self._waiters.popleft().succeed()
        else:
            shard.bell = min(BELL_TOKENS, shard.bell + 1)

    def _claim_of(self, shard: _Shard, most: int) -> Steps[list[SimulatedJob]]:
        taken: list[SimulatedJob] = []

        def take() -> float:
            while shard.jobs and len(taken) < most:
                taken.append(shard.jobs.popleft())
            self.length.add(-len(taken))
            if not shard.jobs:
                shard.bell = 0
            return self._costs.claim_s + len(taken) * self._costs.claim_job_s

        yield from self._way()
        yield from shard.node.thread.act(take)
        yield from self._way(3 if len(taken) > 1 else 1)  # of several the jobs are read by an LRANGE
        return taken

    def _command(self, shard: _Shard, seconds: float) -> Steps[None]:
        """Until a command has run; its reply is still to come."""
        yield from self._way()
        yield from shard.node.thread.run(seconds)

    def _way(self, times: int = 1) -> Steps[None]:
        """A message on its way between a process and Redis."""
        if self._one_way_s:
            yield self._env.timeout(times * self._one_way_s)
