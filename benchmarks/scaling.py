"""`python -m benchmarks.scaling`: a day's load in a minute, with model servers from none to some and back.

Owns a stand-in for KEDA and for the HorizontalPodAutoscaler that KEDA makes. The triggers, targets and times
are those of deploy/kubernetes/components/keda, read from there; `--speed` divides the times. It asks a real
web tier, and starts and stops real `python -m model_server`. Their network sleeps, so that two cores can show
several; each answer is checked. What a cluster adds, to schedule a pod and fetch its image, is not here.
"""

import argparse
import asyncio
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import yaml

from settings import PROJECT
from tests.support.redis_server import running_redis
from tests.support.stack import START_S, Stack, shade, web_up
from tests.support.waiting import eventually

SCALED_OBJECT: Final = PROJECT / "deploy" / "kubernetes" / "components" / "keda" / "scaled-object.yaml"

MODEL: Final = "sleeper"
_PICTURE_S: Final = 0.025
"""What the network sleeps for a picture: a server answers 40 a second."""
_SHADES: Final = 4

_WINDOW_S: Final = 60.0
"""What /scaling takes where it is asked for no window."""
_SYNC_S: Final = 15.0
"""How often Kubernetes' autoscaler looks."""
_TOLERANCE: Final = 0.1
"""And which deviation it lets be."""
_LONGEST_S: Final = 60.0
"""REQUEST_TIMEOUT_S of the overlay: for so long a picture waits."""

_MODEL_TOML: Final = """\
task = "classification"
labels = "labels.txt"

[source]
kind = "python"

[input]
width = 8
height = 8
channels = 1
fit = "stretch"
normalise = "none"
"""
_HOOKS: Final = f"""\
import time

import numpy as np


def load():
    def predict(batch):
        time.sleep({_PICTURE_S} * len(batch))
        shades = batch.mean(axis=(1, 2, 3)) // {256 // _SHADES}
        return np.eye({_SHADES}, dtype=np.float32)[shades.astype(int)]

    return predict
"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A number of /scaling, and how many of it a model server may have."""

    path: str
    field: str
    target: float
    is_value: bool
    """The number itself is compared with the target, and not its share of each server."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What KEDA is told, with its times already shortened."""

    triggers: tuple[Trigger, ...]
    most: int
    polling_s: float
    cooldown_s: float
    stabilization_s: float
    sync_s: float

    @classmethod
    def read(cls, path: Path, *, speed: float) -> Self:
        """Those of a ScaledObject, whose triggers then ask for MODEL alone."""
        spec = yaml.safe_load(path.read_text("utf-8"))["spec"]
        behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        if spec["minReplicaCount"] != 0 or behaviour["scaleUp"]["stabilizationWindowSeconds"] != 0:
            raise SystemExit(f"{path} does not scale to zero, or not up at once: this stand-in does both.")
        window_s = max(1, math.ceil(_WINDOW_S / speed))
        return cls(
            tuple(_trigger(each, window_s) for each in spec["triggers"]),
            spec["maxReplicaCount"],
            spec["pollingInterval"] / speed,
            spec["cooldownPeriod"] / speed,
            behaviour["scaleDown"]["stabilizationWindowSeconds"] / speed,
            _SYNC_S / speed,
        )


def _trigger(described: dict[str, Any], window_s: int) -> Trigger:
    metadata = described["metadata"]
    url = urlsplit(metadata["url"])
    if described["type"] != "metrics-api" or "models" not in parse_qs(url.query):
        raise SystemExit(f"this stand-in reads /scaling?models= alone, not {described}.")
    query = urlencode({"models": MODEL, "window": window_s})
    is_value = described.get("metricType", "AverageValue") == "Value"
    return Trigger(f"{url.path}?{query}", metadata["valueLocation"], float(metadata["targetValue"]), is_value)


class Autoscaler:
    """How many model servers there should be. Knows no process and no clock."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._active_at = -math.inf
        self._synced_at = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()

    def wanted(self, values: Sequence[float], *, servers: int, ready: int, now: float) -> int:
        """`values` are the triggers', in their order; `now` is monotonic."""
        rules = self._rules
        if any(value > 0 for value in values):  # KEDA's activation
            self._active_at = now
            if servers == 0:
                self._wanted.clear()
                return 1
        elif now - self._active_at >= rules.cooldown_s:
            return 0
        if servers == 0 or now - self._synced_at < rules.sync_s:
            return servers
        self._synced_at = now
        wanted = max(
            self._by(trigger, value, servers, ready)
            for trigger, value in zip(rules.triggers, values, strict=True)
        )
        self._wanted.append((now, wanted))
        while now - self._wanted[0][0] > rules.stabilization_s:
            self._wanted.popleft()
        most = min(rules.most, max(2 * servers, servers + 4))  # its default policies
        # Down to the most that was wanted within the window, up at once.
        return max(1, min(most, max(wanted, min(servers, max(each for _, each in self._wanted)))))

    @staticmethod
    def _by(trigger: Trigger, value: float, servers: int, ready: int) -> int:
        ratio = value / trigger.target
        if not trigger.is_value:
            ratio /= servers
        if abs(ratio - 1) <= _TOLERANCE:
            return servers
        return math.ceil(ratio * (ready if trigger.is_value else servers))


@dataclass(slots=True)
class Day:
    """What a day was."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """Requests by what became of them: `right`, `wrong`, or status and code."""
    seconds: list[float] = field(default_factory=list)
    """Of each right answer."""
    servers: list[tuple[float, int]] = field(default_factory=list)
    """How many there were, from when on."""
    started: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    """Of the model servers that were stopped, by status."""

    @property
    def lost(self) -> int:
        """Requests without the right answer."""
        return self.outcomes.total() - self.outcomes["right"]

    @property
    def most(self) -> int:
        """Model servers at once."""
        return max(count for _, count in self.servers)

    def report(self) -> str:
        """The account, as text."""
        steps = " ".join(f"{at:.0f}s:{count}" for at, count in self.servers)
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.items())
        times = sorted(self.seconds)
        p50, p99 = times[len(times) // 2], times[int(0.99 * (len(times) - 1))]
        return "\n".join(
            (
                f"requests: {self.outcomes.total()}: {outcomes}",
                f"model servers: {self.started} started, {self.most} at once; {steps}",
                f"exit statuses of those stopped: {dict(self.exits)}",
                f"first answer after {self.seconds[0]:.1f} s, p50 {p50:.2f} s, p99 {p99:.2f} s, "
                f"slowest {times[-1]:.1f} s",
            )
        )


class Cluster:
    """The model servers' processes, and KEDA's loop over them."""

    def __init__(self, stack: Stack, rules: Rules, day: Day) -> None:
        self._stack = stack
        self._rules = rules
        self._autoscaler = Autoscaler(rules)
        self._day = day
        self._running: list[subprocess.Popen[bytes]] = []
        self._leaving: list[subprocess.Popen[bytes]] = []
        self._began_at = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether no model server runs any more."""
        return not (self._running or self._leaving)

    async def keep(self, web: httpx.AsyncClient) -> None:
        """Ask and act, until cancelled. A question that fails changes nothing, as with KEDA."""
        self._day.servers.append((0.0, 0))
        while True:
            try:
                told = [(await web.get(trigger.path)).json() for trigger in self._rules.triggers]
                pairs = zip(told, self._rules.triggers, strict=True)
                values = [float(each[trigger.field]) for each, trigger in pairs]
                ready = len(await asyncio.to_thread(self._stack.ready_workers))
            except (httpx.HTTPError, KeyError):
                values = []
            if values:
                now, servers = time.monotonic(), len(self._running)
                self._set(self._autoscaler.wanted(values, servers=servers, ready=ready, now=now))
            await asyncio.sleep(self._rules.polling_s)

    def _set(self, wanted: int) -> None:
        if wanted != len(self._running):
            self._day.servers.append((time.monotonic() - self._began_at, wanted))
        while len(self._running) < wanted:
            self._running.append(self._stack.start("model_server", log="model_server"))
            self._day.started += 1
        while len(self._running) > wanted:
            process = self._running.pop()
            process.send_signal(signal.SIGTERM)
            self._leaving.append(process)
        for process in [each for each in self._leaving if each.poll() is not None]:
            self._leaving.remove(process)
            self._day.exits[process.returncode] += 1


async def _ask(web: httpx.AsyncClient, number: int, day: Day) -> None:
    expected, began = number % _SHADES, time.monotonic()
    picture = shade(expected * (256 // _SHADES) + 10)
    try:
        response = await web.post("/predict", content=picture, headers={"Content-Type": "image/png"})
    except httpx.HTTPError as error:
        day.outcomes[type(error).__name__] += 1
        return
    answer = response.json()
    if response.status_code != httpx.codes.OK:
        day.outcomes[f"{response.status_code} {answer['error']['code']}"] += 1
    elif answer["predictions"][0]["label"] == f"shade{expected}":
        day.outcomes["right"] += 1
        day.seconds.append(time.monotonic() - began)
    else:
        day.outcomes["wrong"] += 1


async def _live(stack: Stack, rules: Rules, *, day_s: float, peak: float) -> Day:
    """A day: a night, a hump of `peak` requests a second, an evening until all model servers have left."""
    day = Day()
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=stack.url, timeout=_LONGEST_S + 10, limits=limits) as web:
        cluster = Cluster(stack, rules, day)
        keeping = asyncio.create_task(cluster.keep(web))
        began, asked = time.monotonic(), set[asyncio.Task[None]]()
        due = at = 0.0
        while at < day_s:
            before, at = at, time.monotonic() - began
            due += _rate(at / day_s, peak) * (at - before)
            for _ in range(int(due)):
                asked.add(asyncio.create_task(_ask(web, len(asked), day)))
            due -= int(due)
            await asyncio.sleep(_TICK_S)
        await asyncio.gather(*asked)
        deadline = time.monotonic() + rules.cooldown_s + 60
        while not cluster.is_idle and time.monotonic() < deadline and not keeping.done():
            await asyncio.sleep(rules.polling_s)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        if keeping.done() and not keeping.cancelled():
            keeping.result()
    return day


_TICK_S: Final = 0.02


def _rate(part: float, peak: float) -> float:
    """Requests a second at this part of the day: a night, and a hump with two peaks until the evening."""
    hours = 24 * part
    if not 5 <= hours <= 20:
        return 0.0
    noon = math.sin(math.pi * (hours - 5) / 15)
    return peak * max(0.05, noon * (0.75 + 0.25 * math.cos(2 * math.pi * (hours - 11) / 6)))


def _yesterday(stack: Stack) -> None:
    """A model server lived, and left its model's card: pictures can be prepared while none lives."""
    server = stack.start("model_server", log="model_server")
    eventually(lambda: bool(stack.ready_workers()), within_s=START_S)
    server.send_signal(signal.SIGTERM)
    server.wait(START_S)


def run(*, day_s: float, peak: float, speed: float) -> Day:
    """Live a day of `day_s` seconds over a Redis of its own. KEDA's times are divided by `speed`."""
    rules = Rules.read(SCALED_OBJECT, speed=speed)
    with tempfile.TemporaryDirectory() as name, running_redis() as redis:
        folder = Path(name)
        model = folder / "models" / MODEL
        model.mkdir(parents=True)
        (model / "model.toml").write_text(_MODEL_TOML)
        (model / "hooks.py").write_text(_HOOKS)
        (model / "labels.txt").write_text("".join(f"shade{number}\n" for number in range(_SHADES)))
        stack = Stack(folder, redis.url, MODEL)
        stack.environment |= {
            "MODELS_DIR": str(folder / "models"),
            "SCALE_TO_ZERO": "on",
            "REQUEST_TIMEOUT_S": f"{_LONGEST_S:g}",
            "CACHE_DIR": str(folder / "engines"),
        }
        with web_up(stack):
            _yesterday(stack)
            return asyncio.run(_live(stack, rules, day_s=day_s, peak=peak))


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 where a request was lost or a model server is left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--day", type=float, default=60, help="seconds of the day (60)")
    parser.add_argument("--peak", type=float, default=100, help="requests a second at noon (100)")
    parser.add_argument("--speed", type=float, default=30, help="divides KEDA's times (30)")
    options = parser.parse_args(arguments)
    day = run(day_s=options.day, peak=options.peak, speed=options.speed)
    sys.stdout.write(f"{day.report()}\n")
    return int(day.lost > 0 or day.servers[-1][1] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
