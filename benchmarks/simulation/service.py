"""The service as a whole: a fleet, the pictures that come to it, and what was seen.

Owns how the parts are put together, and the report's figures. The parts' own steps are in their modules.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import simpy

from benchmarks.simulation.costs import Costs
from benchmarks.simulation.model_server import ModelServerKind, SimulatedModelServer
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Level, Machine, Steps, Window
from benchmarks.simulation.redis_queue import RedisNode, RedisQueue
from benchmarks.simulation.web_tier import PictureFate, SimulatedAnswer, WebLimits, WebProcess
from broker.codec import job_size
from broker.messages import Fit, InputSpec, Pace
from loadtest.measuring.slo import nearest_rank
from model_server.commands.serve import CALL_SHARE
from model_server.serving.pipeline import WorkerLimits
from settings import Settings
from web.server import capacity

_MEGABYTE: Final = 2**20


@dataclass(frozen=True, slots=True)
class Fleet:
    """What there is of each part. The settings are the service's own."""

    web_hosts: int = 1
    web_cores: int = 2
    """Of each web host."""
    model_servers: int = 1
    redis_nodes: int = 1
    queue_shards: int = 1
    round_trip_s: float = 0.0002
    """Between a process and Redis."""
    one_host: bool = False
    """All parts share the cores of the one web host, but the networks have devices of their own."""
    input_shape: tuple[int, int, int] = (224, 224, 3)
    settings: Settings = field(default_factory=Settings)


class PartUse(msgspec.Struct, frozen=True):
    """How busy a part was."""

    part: str
    use: float
    """Of what it can do; 1: it is saturated."""
    saturates_at_per_s: float | None
    """Pictures a second that it can do at most, in full batches; None: it has nothing to do."""


class SimulatedRun(msgspec.Struct, frozen=True):
    """What a run was, without its warm-up. Rates are pictures a second, times milliseconds."""

    offered_per_s: float
    answered_per_s: float
    refused_per_s: float
    late_per_s: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    most_ms: float | None
    batch_size: float | None
    queue_mean: float
    queue_most: int
    in_flight_mean: float
    parts: list[PartUse]
    """The busiest first."""


class ServiceSimulation:
    """One run. `answers` and the model servers' calls are there afterwards, warm-up included."""

    def __init__(
        self, fleet: Fleet, network: NetworkSpeed, costs: Costs, *, window: Window, seed: int = 0
    ) -> None:
        self._env = env = simpy.Environment()
        self._fleet = fleet
        self._window = window
        self._network = network
        self._costs = costs
        settings = fleet.settings
        self._hosts = [Machine(env, window, fleet.web_cores) for _ in range(fleet.web_hosts)]
        shared = self._hosts[0] if fleet.one_host else None
        self._redis = [RedisNode(env, window, shared) for _ in range(fleet.redis_nodes)]
        self._queue = RedisQueue(
            env, window, self._redis, shards=fleet.queue_shards, costs=costs, round_trip_s=fleet.round_trip_s
        )
        limits = WorkerLimits(
            settings.batch_size,
            settings.max_attempts,
            settings.batch_wait_ms / 1000,
            call_s=settings.request_timeout_s * CALL_SHARE,
        )
        kind = ModelServerKind(network, limits, costs, settings.lease_s)
        self.model_servers = [
            SimulatedModelServer(
                env,
                window,
                self._queue,
                kind,
                number=number,
                chance=random.Random(f"{seed} {number}"),
                machine=shared,
            )
            for number in range(fleet.model_servers)
        ]
        self._web = self._web_processes(costs)
        self.answers: list[SimulatedAnswer] = []
        self.in_flight = Level(env, window)
        """Pictures that have come and have no answer yet."""

    def run(self, times: Iterable[float]) -> SimulatedRun:
        """Let pictures come at these seconds, in order; return once each has its answer."""
        self._env.run(self._env.process(self._all(times)))
        return self._report()

    def _web_processes(self, costs: Costs) -> list[WebProcess]:
        fleet, settings = self._fleet, self._fleet.settings
        size = capacity.of(settings.web_workers, settings.web_threads, cores=fleet.web_cores)
        height, width, channels = fleet.input_shape
        spec = InputSpec(width=width, height=height, channels=channels, fit=Fit.STRETCH)
        room = min(settings.queue_limit, settings.queue_limit_mb * _MEGABYTE // job_size(spec))
        limits = WebLimits(room, settings.request_timeout_s, size.requests)
        return [
            WebProcess(
                self._env, self._window, host, self._queue, costs=costs, limits=limits, pace=self._pace
            )
            for _ in range(size.workers)
            for host in self._hosts
        ]

    def _pace(self) -> Pace:
        """As `ModelView.pace`, of what the workers last published."""
        states = [server.published for server in self.model_servers]
        return Pace(
            rate=sum(state.rate for state in states),
            batch_s=max(state.latency_ms for state in states) / 1000,
        )

    def _all(self, times: Iterable[float]) -> Steps[None]:
        env, under_way = self._env, list[simpy.Process]()
        for number, at in enumerate(times):
            if at > env.now:
                yield env.timeout(at - env.now)
            under_way.append(env.process(self._one(self._web[number % len(self._web)])))
        rest_s = self._window.ends - env.now
        if rest_s > 0:
            yield env.timeout(rest_s)
        yield simpy.AllOf(env, [each for each in under_way if each.is_alive])

    def _one(self, web: WebProcess) -> Steps[None]:
        self.in_flight.add(1)
        yield from web.answer(self.answers)
        self.in_flight.add(-1)

    def _report(self) -> SimulatedRun:
        window, length_s = self._window, self._window.length_s
        offered = [each for each in self.answers if each.arrived_at in window]
        answered = [each for each in offered if each.fate is PictureFate.ANSWERED]
        latencies = sorted(each.latency_s * 1000 for each in answered)
        ended = sum(each.fate is PictureFate.ANSWERED and each.answered_at in window for each in self.answers)
        calls = [call for server in self.model_servers for call in server.calls if call.began in window]
        refused = sum(each.fate is PictureFate.REFUSED for each in offered)
        late = sum(each.fate is PictureFate.LATE for each in offered)
        return SimulatedRun(
            offered_per_s=len(offered) / length_s,
            answered_per_s=ended / length_s,
            refused_per_s=refused / length_s,
            late_per_s=late / length_s,
            p50_ms=nearest_rank(latencies, 50),
            p95_ms=nearest_rank(latencies, 95),
            p99_ms=nearest_rank(latencies, 99),
            most_ms=latencies[-1] if latencies else None,
            batch_size=sum(call.pictures for call in calls) / len(calls) if calls else None,
            queue_mean=self._queue.length.mean,
            queue_most=self._queue.length.most,
            in_flight_mean=self.in_flight.mean,
            parts=self._parts(),
        )

    def _parts(self) -> list[PartUse]:
        fleet, costs, servers, hosts = self._fleet, self._costs, self.model_servers, self._hosts
        batch = fleet.settings.batch_size
        cores = sum(each.cores for each in hosts)
        parts = {
            "web cores": (sum(each.busy_s for each in hosts) / cores, cores, costs.web_s),
            "web Python": (
                sum(each.thread.busy_s for each in self._web) / len(self._web),
                len(self._web),
                costs.submit_s + costs.reply_s,
            ),
            "Redis": (
                max(each.thread.busy_s for each in self._redis),
                min(len(self._redis), fleet.queue_shards),
                costs.redis_s(batch),
            ),
            "networks": (
                sum(each.device_s for each in servers) / len(servers),
                len(servers),
                self._network.mean_s(batch) / batch,
            ),
            "model servers' Python": (
                sum(each.thread.busy_s for each in servers) / len(servers),
                len(servers),
                costs.worker_s(batch),
            ),
        }
        uses = [
            PartUse(part, busy_s / self._window.length_s, count / picture_s if picture_s else None)
            for part, (busy_s, count, picture_s) in parts.items()
        ]
        return sorted(uses, key=lambda each: each.saturates_at_per_s or math.inf)
