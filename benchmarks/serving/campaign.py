"""The order of it all: environments, interleaved rounds, the null engine, the headline load, the stages.

Owns what is run when, and the raw figures that come of it (`found`, ready for JSON). Judges nothing.
"""

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.programs import ROOT, BenchmarkFailed
from benchmarks.serving import load, machine, stages
from benchmarks.serving.contenders import ENGINE, PACKAGE, Contender, Place, common, contenders
from benchmarks.serving.figures import in_turn
from benchmarks.serving.running import Running, started
from benchmarks.serving.venvs import VenvUnavailable, network, python_of

LIMITS: Final = {"full": "limit, full decode", "draft": "limit, Batchwire's decode"}
_WARM_UP: Final = (8, 2.0)
_BARE: Final = (1, 8, 32)
_NULL_CLIENTS: Final = 32


@dataclass(frozen=True, slots=True)
class CampaignPlan:
    """What to measure, and for how long."""

    pictures: list[Path]
    rounds: int
    seconds: float
    clients: list[int]
    only: list[str]
    parts: set[str]
    headline: int
    network: Path | None
    """OpenVINO's file of the network for all; None: converted here."""
    patience_s: float
    """How long to wait for other programs to be quiet, before each contender."""


class Campaign:
    """One run of the benchmark."""

    def __init__(self, plan: CampaignPlan, folder: Path, *, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._folder = folder
        self._say = say
        product_engine = importlib.util.find_spec("model_server.engines.openvino") is not None
        everyone = contenders(product_engine=product_engine)
        self._contenders = {each.name: each for each in everyone if self._wanted(each.name)}
        self.found: dict[str, Any] = {
            "machine": machine.about(),
            "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "clients": plan.clients},
            "contenders": {
                name: {"decode": each.decode, "is_peer": each.is_peer}
                for name, each in self._contenders.items()
            },
            "limits": {name: decode for decode, name in LIMITS.items()},
            **{key: {} for key in ("versions", "skipped", "bare", "points", "held", "null", "headline")},
            "stages": {},
        }

    def run(self) -> None:
        """Everything that is asked for, in rounds. Raises Unavailable without an engine."""
        place = self._place()
        for number in range(self._plan.rounds):
            self._say(f"Round {number + 1} of {self._plan.rounds}. {machine.load()}.")
            if "serving" in self._plan.parts:
                self._round(place, number)
            if "null" in self._plan.parts:
                self._null_round(place, number)
        if "headline" in self._plan.parts:
            for name in self._contenders.keys() & {"Batchwire", "old pattern, as published"}:
                self._try(name, self._measure_headline, place)
        if "stages" in self._plan.parts:
            self.found["stages"] = stages.measure(self._plan.pictures[0].read_bytes())
        self.found["machine"]["load afterwards"] = machine.load()

    def _wanted(self, name: str) -> bool:
        return not self._plan.only or any(name.startswith(each) for each in self._plan.only)

    def _place(self) -> Place:
        """Make every environment; those that can't be are skipped, with the reason."""
        pythons = {ENGINE: self._python(ENGINE)}
        for name in list(self._contenders):
            environment = self._contenders[name].environment
            try:
                pythons.setdefault(environment, "")
                pythons[environment] = pythons[environment] or self._python(environment)
            except VenvUnavailable as error:
                self._skip(name, str(error))
        file = self._plan.network or network(pythons[ENGINE], self._folder, ROOT)
        return Place(self._folder, (0,), pythons, file, "openvino")

    def _python(self, name: str) -> str:
        requirements = PACKAGE / f"requirements-{name}.txt"
        self.found["versions"][name] = _pinned(requirements, name)
        return python_of(name, requirements, self._folder)

    def _skip(self, name: str, why: str) -> None:
        self._say(f"{name} is skipped: {why}")
        self.found["skipped"][name] = why
        self._contenders.pop(name, None)

    def _round(self, place: Place, number: int) -> None:
        for batch in _BARE:
            bare = self._limit(place, "bare", str(batch), f"{self._plan.seconds / 2:g}")
            self.found["bare"].setdefault(str(batch), []).append(bare)
        for name in in_turn([*LIMITS.values(), *self._contenders], number):
            if name in self.found["limits"]:
                self._serverless(place, name)
            elif name in self._contenders:
                self._try(name, self._measure, place)

    def _serverless(self, place: Place, name: str) -> None:
        how = self.found["limits"][name]
        machine.await_quiet(self._plan.patience_s)
        for clients in self._plan.clients:
            given = [str(clients), f"{self._plan.seconds:g}", *map(str, self._plan.pictures)]
            self._keep("points", name, clients, self._limit(place, "serverless", how, *given))

    def _try(self, name: str, measure: Callable[[Contender, Place], None], place: Place) -> None:
        """A contender that fails is told of and left out from then on; what it has given stands."""
        try:
            measure(self._contenders[name], place)
        except BenchmarkFailed as error:
            self._skip(name, str(error))

    def _measure(self, contender: Contender, place: Place) -> None:
        with self._running(contender, place) as running:
            for clients in self._plan.clients:
                put = load.closed(clients, self._plan.seconds)
                point = self._load(contender, running, put)
                self._keep("points", contender.name, clients, asdict(point))
            held = running.memory()
            told = {"start_s": running.start_s, "rss_mb": held.rss, "pss_mb": held.pss}
            self.found["held"].setdefault(contender.name, []).append(told)

    def _null_round(self, place: Place, number: int) -> None:
        null = replace(place, engine="null")
        for name in in_turn([name for name, each in self._contenders.items() if each.has_null], number):
            self._try(name, self._measure_null, null)

    def _measure_null(self, contender: Contender, place: Place) -> None:
        with self._running(contender, place) as running:
            point = self._load(contender, running, load.closed(_NULL_CLIENTS, self._plan.seconds))
            self._keep("null", contender.name, _NULL_CLIENTS, asdict(point))

    def _measure_headline(self, contender: Contender, place: Place) -> None:
        """The old pattern's own stress test."""
        with self._running(contender, place) as running:
            point = self._load(contender, running, load.headline(self._plan.headline))
            self.found["headline"][contender.name] = asdict(point)

    @contextmanager
    def _running(self, contender: Contender, place: Place) -> Iterator[Running]:
        """Start and warm it up."""
        log = self._folder / "logs" / f"{contender.name.replace(' ', '-').replace(',', '')}.log"
        log.parent.mkdir(exist_ok=True)
        machine.await_quiet(self._plan.patience_s)
        with started(contender, place, self._plan.pictures[0], log) as running:
            self._load(contender, running, load.closed(*_WARM_UP))
            yield running

    def _load(self, contender: Contender, running: Running, put: list[str]) -> load.Point:
        return load.run(contender, running, self._plan.pictures, put, self._folder)

    def _limit(self, place: Place, *arguments: str) -> dict[str, Any]:
        command = [place.pythons[ENGINE], "-m", "benchmarks.serving.limits", *arguments]
        environment, others = os.environ | common(place), machine.Others()
        done = subprocess.run(  # noqa: S603 - ours
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkFailed(f"the limit: {done.stderr.strip()[-500:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found | {"others": others.cores()}

    def _keep(self, part: str, name: str, clients: int, point: dict[str, Any]) -> None:
        self.found[part].setdefault(name, {}).setdefault(str(clients), []).append(point)
        told = f"p50 {point['p50_ms']:.1f}, p99 {point['p99_ms']:.1f} ms, {point['failed']} failed"
        null = " (null engine)" if part == "null" else ""
        others = f"; others took {point['others']:.1f} cores" * (point["others"] > machine.QUIET_CORES)
        self._say(f"  {name}{null}, {clients} clients: {point['per_s']:.1f}/s, {told}{others}")
        for error, count in point.get("errors", {}).items():
            self._say(f"    {count} x {error}")


def _pinned(requirements: Path, name: str) -> str:
    wanted = "openvino" if name == ENGINE else name
    lines = requirements.read_text().splitlines()
    return next((line.split("==")[1] for line in lines if line.lower().startswith(f"{wanted}==")), "")
