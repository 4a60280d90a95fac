"""The simulation against the real service: the same pictures at the same moments, side by side.

Owns the comparison, and how far the two may differ. The network sleeps, so that two cores carry the rest.
"""

import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.simulation import costs, measure, real_service
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Window
from benchmarks.simulation.real_service import RealLoad
from benchmarks.simulation.service import Fleet, ServiceSimulation
from loadtest.cli.units import shown
from loadtest.measuring.slo import nearest_rank
from settings import Settings
from web.server.capacity import usable_cores

PICTURE: Final = "640x480"
INPUT: Final = (224, 224, 3)
TOLERANCE: Final = 0.1

_JUDGED: Final = ("answered, pictures/s", "batch, pictures", "p50, ms")
_ROUND_TRIP_S: Final = 0.0001
"""By a Unix socket."""

_SETTINGS: Final = {"BATCH_SIZE": "8", "REQUEST_TIMEOUT_S": "4", "WEB_WORKERS": "2"}
"""A small batch and little time: the queue of an overload is as long as it gets after a few seconds."""


@dataclass(frozen=True, slots=True)
class LoadComparison:
    """A load: each figure of the real service, and of the simulation."""

    share: float
    """Of what the network can do."""
    real: dict[str, float]
    simulated: dict[str, float]

    @property
    def misses(self) -> list[str]:
        """The figures that have to agree, and do not."""
        return [
            name for name in _JUDGED if abs(_ratio(self.simulated[name], self.real[name]) - 1) > TOLERANCE
        ]

    def table(self) -> str:
        """The figures side by side."""
        lines = [f"\nload {self.share:g}: {'':14}{'real':>10}{'simulated':>12}{'ratio':>8}"]
        for name, real in self.real.items():
            simulated = self.simulated[name]
            ratio = f"{_ratio(simulated, real):8.2f}" if name in _JUDGED else ""
            lines.append(f"{name:24}{shown(real):>10}{shown(simulated):>12}{ratio}")
        return "\n".join(lines) + "\n"


def run(speed_text: str, shares: tuple[float, ...], seconds: float) -> int:
    """Compare at each of these shares of the network's capacity. Returns 1 if they differ by more."""
    speed, settings = NetworkSpeed.read(speed_text), Settings.from_env(_SETTINGS)
    capacity = speed.most_per_s(settings.batch_size)
    processor, cores, when = real_service.about()
    sys.stdout.write(f"{processor}, {cores} cores, {when}; at most {capacity:.1f} pictures/s\n")
    misses = []
    with (
        tempfile.TemporaryDirectory() as folder,
        real_service.real_service(speed_text, input_shape=INPUT, settings=_SETTINGS) as service,
    ):
        uploads = measure.draw(Path(folder), PICTURE)
        service.send(0.5 * capacity, 3, picture=uploads)  # everything is warm then, and its pace known
        for share in shares:
            load = service.send(share * capacity, seconds, picture=uploads, seed=1)
            comparison = compare(load, speed, settings, share=share, seconds=seconds)
            sys.stdout.write(comparison.table())
            misses += [f"{name} at load {share:g}" for name in comparison.misses]
    if misses:
        sys.stdout.write(f"\nMORE THAN {TOLERANCE:.0%} APART: {', '.join(misses)}\n")
    return int(bool(misses))


def compare(
    load: RealLoad, speed: NetworkSpeed, settings: Settings, *, share: float, seconds: float
) -> LoadComparison:
    """The same pictures, simulated."""
    window = Window(seconds / 5, seconds)
    fleet = Fleet(
        web_cores=usable_cores(),
        round_trip_s=_ROUND_TRIP_S,
        one_host=True,
        input_shape=INPUT,
        settings=settings,
    )
    its_costs = costs.Costs.of(costs.read(), picture=PICTURE, input_shape=INPUT)
    simulation = ServiceSimulation(fleet, speed, its_costs, window=window)
    found = simulation.run(sorted(request.due for request in load.requests))
    simulated = {
        "answered, pictures/s": found.answered_per_s,
        "refused, pictures/s": found.refused_per_s,
        "too late, pictures/s": found.late_per_s,
        "batch, pictures": found.batch_size or 0.0,
        "p50, ms": found.p50_ms or 0.0,
        "p95, ms": found.p95_ms or 0.0,
    }
    return LoadComparison(share, _real(load, window), simulated)


def _real(load: RealLoad, window: Window) -> dict[str, float]:
    offered = [request for request in load.requests if request.due in window]
    latencies = sorted((each.ended - each.due) * 1000 for each in offered if each.status == 200)
    first = min(request.due for request in load.requests)
    sizes = [pictures for began, pictures in load.calls if first + began in window]
    ended = sum(each.status == 200 and each.ended in window for each in load.requests)
    return {
        "answered, pictures/s": ended / window.length_s,
        "refused, pictures/s": sum(each.status == 503 for each in offered) / window.length_s,
        "too late, pictures/s": sum(each.status == 504 for each in offered) / window.length_s,
        "batch, pictures": statistics.mean(sizes) if sizes else 0.0,
        "p50, ms": nearest_rank(latencies, 50) or 0.0,
        "p95, ms": nearest_rank(latencies, 95) or 0.0,
    }


def _ratio(simulated: float, real: float) -> float:
    return simulated / real if real else float(simulated != 0) + 1
