"""How many of each part a rate needs: a row for each rate, by the measured costs, then simulated.

Owns the rule, which leaves each part some of its time, and the table of docs/scaling.md. Measures nothing.
"""

import math
import sys
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.simulation.arrivals import Curve
from benchmarks.simulation.costs import CostFile, Costs
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Window
from benchmarks.simulation.service import Fleet, ServiceSimulation, SimulatedRun
from loadtest.cli.units import shown

BASE_INPUT: Final = (224, 224, 3)
WEB_CORES: Final = 8
"""Of a web host."""

_MOST_USE: Final = 0.7
"""Of a part's time: at random times more lets the waits grow, and the others have to replace a lost host."""

_PICTURES: Final = 12_000
_LEAST_S: Final = 1.0
_MOST_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a rate needs."""

    rate: float
    fleet: Fleet

    @property
    def cores(self) -> int:
        """Of the web tier."""
        return self.fleet.web_hosts * self.fleet.web_cores


def size(rate: float, network: NetworkSpeed, costs: Costs, fleet: Fleet) -> Sizing:
    """The least fleet that keeps each part below 70 %."""
    batch = fleet.settings.batch_size
    cores = math.ceil(rate * costs.web_s / _MOST_USE)
    nodes = math.ceil(rate * costs.redis_s(batch) / _MOST_USE)
    picture_s = max(network.mean_s(batch) / batch, costs.worker_s(batch))
    servers = math.ceil(rate * picture_s / _MOST_USE)
    return Sizing(
        rate,
        replace(
            fleet,
            web_hosts=math.ceil(cores / WEB_CORES),
            web_cores=min(cores, WEB_CORES),
            redis_nodes=nodes,
            queue_shards=nodes,
            model_servers=servers,
        ),
    )


def simulated(sizing: Sizing, network: NetworkSpeed, costs: Costs) -> SimulatedRun:
    """A run of that fleet at its rate, for as long as some thousand pictures take."""
    duration_s = min(_MOST_S, max(_LEAST_S, _PICTURES / sizing.rate))
    window = Window(duration_s / 5, duration_s)
    simulation = ServiceSimulation(sizing.fleet, network, costs, window=window)
    return simulation.run(Curve("poisson", sizing.rate, duration_s).times(0))


def capacities(file: CostFile, batch: int) -> str:
    """What one core of each part carries, as a table of Markdown."""
    lines = ["| upload, to 224x224x3 | web CPU ms a picture | pictures/s of a core |", "|---|---:|---:|"]
    for picture in file.pictures:
        web_ms = Costs.of(file, picture=picture.picture, input_shape=BASE_INPUT).web_s * 1e3
        lines.append(
            f"| {picture.picture}, {picture.upload_kb:.0f} KB | {shown(web_ms)} | {shown(1000 / web_ms)} |"
        )
    lines += ["", "| model's input | Redis: CPU ms a picture, alone and in batches of "]
    lines[-1] += f"{batch} | pictures/s of a Redis | model server: CPU ms beside the network | pictures/s |"
    lines.append("|---|---:|---:|---:|---:|")
    for each in file.inputs:
        shape = tuple(map(int, each.input.split("x")))
        costs = Costs.of(file, picture=file.pictures[0].picture, input_shape=(shape[0], shape[1], shape[2]))
        alone, together = costs.redis_alone_s, costs.redis_s(batch)
        worker_s = costs.worker_s(batch)
        lines.append(
            f"| {each.input} | {shown(alone * 1e3)}, {shown(together * 1e3)} | {shown(1 / alone)} to "
            f"{shown(1 / together)} | {shown(worker_s * 1e3)} | {shown(1 / worker_s)} |"
        )
    return "\n".join(lines) + "\n"


def row(sizing: Sizing) -> str:
    """The counts of a fleet, as the first cells of a row of Markdown."""
    fleet = sizing.fleet
    web = f"{sizing.cores} ({fleet.web_hosts} host{'s' * (fleet.web_hosts > 1)})"
    return f"| {sizing.rate:,.0f} | {web} | {fleet.redis_nodes} | {fleet.model_servers} |"


def run(network: NetworkSpeed, file: CostFile, costs: Costs, fleet: Fleet, rates: tuple[float, ...]) -> int:
    """Print both tables."""
    batch = fleet.settings.batch_size
    sys.stdout.write(f"{file.processor}, measured {file.measured}\n\n{capacities(file, batch)}\n")
    head = (
        "| pictures/s | web cores | Redis nodes | model servers | p50 / p95 ms | batch | the busiest part |"
    )
    sys.stdout.write(f"{head}\n|---:|---:|---:|---:|---:|---:|---|\n")
    for rate in rates:
        sizing = size(rate, network, costs, fleet)
        found = simulated(sizing, network, costs)
        first = max(found.parts, key=lambda part: part.use)
        sys.stdout.write(
            f"{row(sizing)} {shown(found.p50_ms)} / {shown(found.p95_ms)} | {shown(found.batch_size)} | "
            f"{first.part}, {first.use:.0%} |\n"
        )
        sys.stdout.flush()
    return 0
