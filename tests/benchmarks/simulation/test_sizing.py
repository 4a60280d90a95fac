"""How many of each part a rate needs; and docs/scaling.md has just the tables that the costs make."""

from dataclasses import replace

import pytest

from benchmarks.simulation import costs, sizing
from benchmarks.simulation.check import LoadComparison
from benchmarks.simulation.costs import Costs
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.service import Fleet
from settings import PROJECT

COSTS = Costs(
    decode_s=0.005, submit_s=0.0015, reply_s=0.0005, enqueue_s=0.0006, claim_job_s=0.0001, worker_job_s=0.0002
)
SPEED = NetworkSpeed.read("5+0.5n")


def test_each_part_keeps_three_tenths_of_its_time() -> None:
    needed = sizing.size(1000, SPEED, COSTS, Fleet())
    assert needed.fleet.web_hosts == 2  # 7 ms a picture, 0.7 of each of 10 cores
    assert needed.fleet.redis_nodes == needed.fleet.queue_shards == 1
    assert needed.fleet.model_servers == 1  # 21 ms for 32
    assert sizing.size(1001, SPEED, replace(COSTS, enqueue_s=0.00061), Fleet()).fleet.redis_nodes == 2
    slow = NetworkSpeed.read("40+10n")
    assert sizing.size(1000, slow, COSTS, Fleet()).fleet.model_servers == 17  # 11.25 ms a picture


@pytest.mark.slow
def test_the_sized_fleet_carries_its_rate() -> None:
    needed = sizing.size(200, SPEED, COSTS, Fleet())
    found = sizing.simulated(needed, SPEED, COSTS)
    assert found.answered_per_s == pytest.approx(200, rel=0.05)
    assert found.refused_per_s == found.late_per_s == 0
    assert all(part.use < 0.8 for part in found.parts)


def test_the_page_has_the_tables_of_the_costs() -> None:
    page, file = (PROJECT / "docs" / "scaling.md").read_text("utf-8"), costs.read()
    assert file.processor in page
    for line in sizing.capacities(file, 32).splitlines():
        assert line in page
    its_costs = Costs.of(file, picture="1280x720", input_shape=(224, 224, 3))
    for rate in (10.0, 1e3, 1e5):
        assert sizing.row(sizing.size(rate, SPEED, its_costs, Fleet())) in page


def test_a_comparison_names_what_is_more_than_a_tenth_apart() -> None:
    real = {"answered, pictures/s": 50.0, "batch, pictures": 4.0, "p50, ms": 100.0, "p95, ms": 200.0}
    near = LoadComparison(0.9, real, real | {"p50, ms": 109.0, "p95, ms": 400.0})
    assert near.misses == []
    far = LoadComparison(0.9, real, real | {"p50, ms": 89.0, "answered, pictures/s": 56.0})
    assert far.misses == ["answered, pictures/s", "p50, ms"]
    assert "0.89" in far.table()
