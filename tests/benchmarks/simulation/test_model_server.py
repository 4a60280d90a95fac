"""The simulated model server: its mean waits are those of the formulas, its batches those of a real worker.

batches.json has what a real one did; record_batches.py made it.
"""

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, pairwise

import msgspec
import pytest
import simpy

from benchmarks.simulation.arrivals import Curve
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.model_server import ModelServerKind, SimulatedCall, SimulatedModelServer
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Steps, Window
from benchmarks.simulation.redis_queue import RedisNode, RedisQueue, SimulatedJob
from model_server.serving.pipeline import WorkerLimits
from tests.benchmarks.simulation.record_batches import FILE, Record

RECORDS = msgspec.json.decode(FILE.read_bytes(), type=list[Record])
COSTS = Costs(enqueue_s=0.0004, claim_s=0.0002, claim_job_s=0.0001, complete_s=0.0002, worker_call_s=0.001)
"""About those of a small input. A call takes a hundred times as long."""


def _serve(
    times: list[float], speed: NetworkSpeed, limits: WorkerLimits, costs: Costs, *, servers: int = 1
) -> tuple[list[float], list[SimulatedCall]]:
    """Seconds that each job took, and the calls. `times` are when jobs are in the queue."""
    env, window, took_s = simpy.Environment(), Window(0, times[-1] + 1), list[float]()
    queue = RedisQueue(env, window, [RedisNode(env, window, None)], shards=1, costs=costs, round_trip_s=0)
    kind = ModelServerKind(speed, limits, costs, lease_s=30)
    made = [
        SimulatedModelServer(
            env, window, queue, kind, number=number, chance=random.Random(number), machine=None
        )
        for number in range(servers)
    ]

    def job(at: float) -> Steps[None]:
        done = env.event()
        yield from queue.push(SimulatedJob(at, at + 1000, done))
        yield done
        took_s.append(env.now - at)

    def jobs() -> Steps[None]:
        for at in times:
            yield env.timeout(max(0.0, at - costs.enqueue_s - env.now))
            env.process(job(at))

    env.process(jobs())
    env.run(times[-1] + 20)
    return took_s, [call for server in made for call in server.calls]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "servers", "expected_s"),
    [
        ("fixed", 1, 0.010 + 0.5 * 0.010 / (2 * 0.5)),  # M/D/1 (Pollaczek-Khinchine)
        ("exponential", 1, 0.010 / 0.5),  # M/M/1
        ("exponential", 2, 0.010 + 0.1 * 0.010 / (2 * 0.75)),  # M/M/2: one in ten waits (Erlang C)
    ],
)
def test_mean_times_are_those_of_the_formulas(spread: str, servers: int, expected_s: float) -> None:
    times = list(Curve("poisson", 50.0, 100.0).times(seed=16))
    speed, limits = NetworkSpeed.read("10", spread), WorkerLimits(1, 3)
    took_s, calls = _serve(times, speed, limits, Costs(), servers=servers)
    assert len(calls) == len(took_s) == len(times)
    assert statistics.mean(took_s) == pytest.approx(expected_s, rel=0.03)


def test_the_next_batch_is_claimed_while_one_runs() -> None:
    costs = Costs(claim_s=0.02, complete_s=0.02)
    _, calls = _serve([0.0] * 50, NetworkSpeed.read("100"), WorkerLimits(1, 3), costs)
    gaps = [later.began - call.began for call, later in pairwise(calls)]
    assert sum(gaps[5:]) / len(gaps[5:]) == pytest.approx(0.1, rel=0.02)  # one after the other: 0.14 s


class _RecordedCalls(NetworkSpeed):
    """A network whose calls take as much longer than they should as those that were recorded."""

    def __init__(self, record: Record) -> None:
        speed = NetworkSpeed.read(record.case.speed)
        super().__init__(speed.sizes, speed.calls_ms)
        late = [took_s - speed.mean_s(pictures) for _, pictures, took_s in record.calls]
        object.__setattr__(self, "late", iter(late))  # frozen, as all speeds are

    def call_s(self, pictures: int, _chance: random.Random) -> float:
        """As the next of them."""
        late: Iterator[float] = self.late  # type: ignore[attr-defined]
        return self.mean_s(pictures) + next(late, 0.0)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.case.name)
def test_batches_are_those_of_the_real_worker(record: Record) -> None:
    case = record.case
    limits = WorkerLimits(case.batch_size, 3, case.batch_wait_s, call_s=case.call_s)
    took_s, calls = _serve(record.enqueued, _RecordedCalls(record), limits, COSTS)
    sizes, real = [call.pictures for call in calls], [pictures for _, pictures, _ in record.calls]
    assert sum(sizes) == sum(real) == len(took_s) == len(record.enqueued)
    assert abs(len(sizes) - len(real)) <= 0.05 * len(real)
    # A job that came at the moment of a claim may be in this batch or in the next: most are as large, and
    # after as many calls neither has run more than a batch ahead of the other.
    alike = sum((Counter(sizes) & Counter(real)).values())
    assert alike >= 0.75 * len(real), (sizes, real)
    ahead = [one - other for one, other in zip(accumulate(sizes), accumulate(real), strict=False)]
    assert max(map(abs, ahead)) <= case.batch_size


def test_the_records_are_of_batches_of_many_sizes() -> None:
    for record in RECORDS:
        sizes = {pictures for _, pictures, _ in record.calls}
        assert len(sizes) >= 3, record.case.name
        assert len(record.calls) >= 15, record.case.name
