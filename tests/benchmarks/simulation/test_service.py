"""What holds of any simulation: conservation, Little's law, the same run for a seed, which part is full."""

import statistics
from dataclasses import replace

import pytest

from benchmarks.simulation.arrivals import Curve
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Window
from benchmarks.simulation.service import Fleet, ServiceSimulation
from benchmarks.simulation.web_tier import PictureFate
from settings import Settings

COSTS = Costs(
    decode_s=0.005,
    submit_s=0.002,
    reply_s=0.001,
    refusal_s=0.0005,
    ask_s=0.00002,
    enqueue_s=0.0004,
    claim_s=0.0001,
    claim_job_s=0.0001,
    complete_s=0.0001,
    complete_job_s=0.0001,
    worker_call_s=0.0005,
    worker_job_s=0.0002,
)


def _run(
    times: list[float],
    speed: NetworkSpeed,
    *,
    fleet: Fleet,
    window: Window,
    seed: int = 0,
) -> ServiceSimulation:
    simulation = ServiceSimulation(fleet, speed, COSTS, window=window, seed=seed)
    simulation.run(times)
    return simulation


@pytest.mark.slow
def test_every_picture_has_one_answer_in_any_overload() -> None:
    settings = Settings(batch_size=8, request_timeout_s=2, queue_limit=50, web_workers=2)
    times = list(Curve("poisson", 300.0, 6.0).times(seed=1))
    fleet = Fleet(settings=settings, web_cores=2, input_shape=(28, 28, 1))
    simulation = _run(times, NetworkSpeed.read("60+10n"), fleet=fleet, window=Window(1, 6))
    fates = [each.fate for each in simulation.answers]
    assert len(fates) == len(times)
    assert fates.count(PictureFate.REFUSED) > 0.3 * len(times)
    ran = sum(call.pictures for server in simulation.model_servers for call in server.calls)
    assert fates.count(PictureFate.ANSWERED) <= ran <= len(times) - fates.count(PictureFate.REFUSED)
    assert simulation.in_flight.value == 0


def test_a_network_that_is_too_slow_for_the_deadline_gives_504() -> None:
    settings = Settings(batch_size=1, request_timeout_s=0.5, web_workers=2)
    fleet = Fleet(settings=settings, input_shape=(28, 28, 1))
    simulation = _run([0.0, 0.1], NetworkSpeed.read("2000"), fleet=fleet, window=Window(0, 1))
    assert [each.fate for each in simulation.answers] == [PictureFate.LATE] * 2
    assert [each.latency_s for each in simulation.answers] == [pytest.approx(0.5, abs=0.01)] * 2


def _overloaded(*, decode_s: float, cores: int, queue_limit: int) -> list[PictureFate]:
    """What becomes of twice as many pictures as the network can do."""
    settings = Settings(batch_size=8, request_timeout_s=1, queue_limit=queue_limit, web_workers=1)
    costs, fleet = replace(COSTS, decode_s=decode_s), Fleet(settings=settings, web_cores=cores)
    simulation = ServiceSimulation(fleet, NetworkSpeed.read("60+10n"), costs, window=Window(1, 8))
    simulation.run(list(Curve("poisson", 120.0, 10.0).times(seed=1)))
    return [each.fate for each in simulation.answers]


@pytest.mark.slow
def test_who_would_be_late_at_the_pace_that_is_measured_is_refused() -> None:
    fates = _overloaded(decode_s=0.001, cores=4, queue_limit=10_000)
    assert fates.count(PictureFate.LATE) < 0.15 * len(fates)
    assert fates.count(PictureFate.REFUSED) > 0.3 * len(fates)


@pytest.mark.slow
def test_who_waited_for_a_decoder_is_judged_again() -> None:
    fates = _overloaded(decode_s=0.02, cores=1, queue_limit=20)
    assert fates.count(PictureFate.LATE) < 0.15 * len(fates)
    assert fates.count(PictureFate.REFUSED) > 0.3 * len(fates)


@pytest.mark.slow
def test_little_s_law_holds() -> None:
    duration_s = 20.0
    times = list(Curve("poisson", 80.0, duration_s).times(seed=2))
    fleet = Fleet(settings=Settings(batch_size=8), web_cores=2)
    simulation = _run(times, NetworkSpeed.read("40+8n"), fleet=fleet, window=Window(0, duration_s + 10))
    per_s = len(simulation.answers) / (duration_s + 10)
    mean_s = statistics.mean(each.latency_s for each in simulation.answers)
    assert simulation.in_flight.mean == pytest.approx(per_s * mean_s, rel=1e-6)


@pytest.mark.slow
def test_a_seed_says_all() -> None:
    fleet = Fleet(settings=Settings(batch_size=8), model_servers=2)

    def once(seed: int) -> list[float]:
        times = list(Curve("poisson", 100.0, 3.0).times(seed))
        speed = NetworkSpeed.read("40+8n", "exponential")
        simulation = _run(times, speed, fleet=fleet, window=Window(0, 3), seed=seed)
        return [each.answered_at for each in simulation.answers]

    assert once(1) == once(1)
    assert once(1) != once(2)


@pytest.mark.slow
def test_the_busiest_part_is_the_one_that_has_the_least() -> None:
    times = list(Curve("constant", 100.0, 5.0).times(0))
    fleet = Fleet(settings=Settings(batch_size=8), web_cores=1, model_servers=4)
    simulation = ServiceSimulation(fleet, NetworkSpeed.read("10"), COSTS, window=Window(1, 5))
    parts = {part.part: part for part in simulation.run(times).parts}
    assert next(iter(parts)) == "web cores"
    assert parts["web cores"].saturates_at_per_s == pytest.approx(125)  # 8 ms a picture, one core
    assert parts["web cores"].use == pytest.approx(0.8, rel=0.05)
    assert parts["networks"].saturates_at_per_s == pytest.approx(4 * 8 / 0.010)


@pytest.mark.slow
def test_a_second_redis_halves_the_work_of_the_first() -> None:
    times = list(Curve("constant", 200.0, 3.0).times(0))
    uses = []
    for nodes in (1, 2):
        fleet = Fleet(web_hosts=2, web_cores=2, model_servers=2, redis_nodes=nodes, queue_shards=nodes)
        simulation = ServiceSimulation(fleet, NetworkSpeed.read("20+1n"), COSTS, window=Window(1, 3))
        parts = {part.part: part for part in simulation.run(times).parts}
        uses.append(parts["Redis"].use)
    assert uses[1] / uses[0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_on_one_host_all_parts_share_its_cores() -> None:
    times = list(Curve("constant", 100.0, 4.0).times(0))
    busy = {}
    for one_host in (False, True):
        fleet = Fleet(settings=replace(Settings(), web_workers=2), web_cores=2, one_host=one_host)
        simulation = ServiceSimulation(fleet, NetworkSpeed.read("5"), COSTS, window=Window(1, 4))
        parts = {part.part: part for part in simulation.run(times).parts}
        busy[one_host] = parts["web cores"].use
    assert busy[True] > busy[False] + 0.03
