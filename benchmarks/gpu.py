"""`python -m benchmarks.gpu`: what an accelerator gives, by the engines alone and through the whole service.

Owns the rounds, the table and var/bench/gpu/results.json. First each engine alone, by size of batch; then
ResNet50 served with the fastest of them, beside the same engine alone, and the web tier's share of the CPU.
Without a GPU it says what is missing and exits with 2; `--device cpu` measures the same there. It has not run
on a GPU yet. Reads no settings.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Column, Table

from benchmarks.engine_process import EngineRun
from benchmarks.engines import engine_started, rate
from benchmarks.programs import ROOT, BenchmarkFailed
from benchmarks.serving import load, machine, pictures
from benchmarks.serving.contenders import Contender, Place, Program
from benchmarks.serving.figures import in_turn, median
from benchmarks.serving.load import Point
from benchmarks.serving.running import started
from deploy.serve.programs import redis_command
from loadtest.cli.units import number, whole
from model_server.engines import choice

FOLDER: Final = ROOT / "var" / "bench" / "gpu"
IMPOSSIBLE: Final = 2
"""The exit status where there is nothing to measure on."""

_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
_CLIENTS: Final = (1, 32, 128)
_START_S: Final = 900.0
"""TensorRT builds its engine for minutes."""
_WARM_UP: Final = (32, 3.0)


@dataclass(frozen=True, slots=True)
class EngineContestant:
    """An engine in a precision, on the network that it reads."""

    engine: str
    precision: str
    provider: str = "auto"

    @property
    def name(self) -> str:
        """Its row."""
        provider = "" if self.provider == "auto" else f" {self.provider}"
        return f"{self.engine}{provider} {self.precision}"

    @property
    def is_of_keras(self) -> bool:
        """Whether it runs Keras' ResNet50; others, the same network in an ONNX file."""
        return self.engine in ("tensorflow", "jax")

    def run(self, batch_size: int) -> EngineRun:
        """What its process loads."""
        cache = str(FOLDER / "engines")
        model, models_dir, weights = ("resnet50_onnx", str(FOLDER / "models"), "")
        if self.is_of_keras:
            model, models_dir, weights = ("resnet50", str(ROOT / "models"), "random")
        return EngineRun(
            self.engine,
            self.precision,
            cache,
            model=model,
            models_dir=models_dir,
            weights=weights,
            provider=self.provider,
            batch_size=batch_size,
        )


CONTESTANTS: Final = {
    "gpu": (
        *(EngineContestant(engine, each) for engine in ("tensorflow", "jax") for each in ("fp32", "fp16")),
        EngineContestant("onnxruntime", "fp32", "cuda"),
        EngineContestant("onnxruntime", "fp32", "tensorrt"),
        EngineContestant("onnxruntime", "fp16", "tensorrt"),
    ),
    "cpu": (
        EngineContestant("tensorflow", "fp32"),
        EngineContestant("jax", "fp32"),
        EngineContestant("openvino", "fp32"),
        EngineContestant("openvino", "bf16"),
        EngineContestant("onnxruntime", "fp32", "cpu"),
    ),
}
"""By device. ENGINE=torch is in neither: it computes on the CPU alone, what OpenVINO can't convert."""


def missing(installed: Collection[str], *, has_gpu: bool) -> dict[str, str]:
    """What a machine lacks to measure its GPU: the engine (`machine`: all of them) -> a clause."""
    lacks = {} if has_gpu else {"machine": "an NVIDIA GPU with its driver (there is no /dev/nvidia0)"}
    packages = {"tensorflow": "tensorflow[and-cuda] in place of tensorflow-cpu", "jax": "jax[cuda12]"}
    for engine, package in packages.items():
        if not choice.can_use_gpu(engine, installed):
            lacks[engine] = f"the package {package}"
    if not {name.lower().replace("_", "-") for name in installed} & {"onnxruntime-gpu"}:
        lacks["onnxruntime"] = "the package onnxruntime-gpu[cuda,cudnn] in place of onnxruntime"
    return lacks


class GpuCampaign:
    """One run: raw figures in `found`, ready for JSON."""

    def __init__(self, asked: argparse.Namespace, console: Console) -> None:
        self._asked = asked
        self._console = console
        self._contestants = {
            each.name: each
            for each in CONTESTANTS[asked.device]
            if not asked.only or any(each.name.startswith(only) for only in asked.only)
        }
        self.found: dict[str, Any] = {
            "machine": machine.about() | {"gpu": _gpu_name() if asked.device == "gpu" else "none"},
            "device": asked.device,
            "plan": {"rounds": asked.rounds, "seconds": asked.seconds, "clients": asked.clients},
            **{key: {} for key in ("bare", "starts", "served", "left_out")},
        }

    def leave_out(self, name: str, why: str) -> None:
        """Say so, and measure it no more."""
        self._console.print(f"{name} is left out: {why}", soft_wrap=True, markup=False)
        self.found["left_out"][name] = why
        self._contestants.pop(name, None)

    def without(self, lacks: dict[str, str]) -> None:
        """Leave out the engines that lack something."""
        for name, each in list(self._contestants.items()):
            if each.engine in lacks:
                self.leave_out(name, f"{each.engine} lacks {lacks[each.engine]}")

    def run(self) -> None:
        """All rounds. Raises BenchmarkFailed if nothing is left to measure."""
        self._write_network()
        for turn in range(self._asked.rounds):
            for name in in_turn(list(self._contestants), turn):
                with self._leaving_out(name):
                    self._bare(self._contestants[name])
            if not self._contestants:
                raise BenchmarkFailed("nothing is left to measure")
            fastest = max(self._contestants, key=lambda name: max(best(self.found["bare"][name])))
            served = self.found.setdefault("served engine", fastest)
            if served in self._contestants:  # else it failed, as was said
                with self._leaving_out(served):
                    self._served(self._contestants[served])

    @contextlib.contextmanager
    def _leaving_out(self, name: str) -> Any:  # noqa: ANN401 - a context manager
        try:
            yield
        except BenchmarkFailed as error:
            self.leave_out(name, str(error))

    def _write_network(self) -> None:
        """The ONNX file of Keras' ResNet50: in a process of its own, since Keras keeps the GPU's memory."""
        if all(each.is_of_keras for each in self._contestants.values()):
            return
        folder = FOLDER / "models" / "resnet50_onnx"
        if (folder / "model.toml").is_file():
            return
        command = [sys.executable, "-m", "benchmarks.resnet50_onnx", str(folder)]
        done = subprocess.run(command, cwd=ROOT, env=_environment("cpu"), capture_output=True, check=False)  # noqa: S603 - ours
        if done.returncode:
            for name in [name for name, each in self._contestants.items() if not each.is_of_keras]:
                self.leave_out(name, f"its network was not written: {done.stderr.decode()[-300:]}")

    def _bare(self, contestant: EngineContestant) -> None:
        """The engine alone, in each size of batch."""
        run = contestant.run(max(self._asked.batches))
        with engine_started(run, environment=_environment(self._asked.device)) as (process, told):
            if "error" in told:
                raise BenchmarkFailed(told["error"])
            if told["device"] != self._asked.device:
                raise BenchmarkFailed(f"it computes on the {told['device']}")
            self.found["starts"].setdefault(contestant.name, []).append(told["start_s"])
            rates = self.found["bare"].setdefault(contestant.name, {})
            for batch in self._asked.batches:
                rates.setdefault(str(batch), []).append(rate(process, batch, self._asked.seconds).per_s)
        self._console.print(f"  {contestant.name}: {best(rates)[-1]:.1f} pictures/s at best", markup=False)

    def _served(self, contestant: EngineContestant) -> None:
        """The whole service with that engine, at each number of clients."""
        contender = Contender(contestant.name, "", lambda place: programs(contestant, place, self._asked))
        paths = pictures.draw(FOLDER.parent / "pictures")
        place = Place(FOLDER, (0,), {}, FOLDER, contestant.engine)
        log = FOLDER / "service.log"
        with started(contender, place, paths[0], log, within_s=_START_S) as running:
            load.run(contender, running, paths, load.closed(*_WARM_UP), FOLDER)
            for clients in self._asked.clients:
                point = load.run(contender, running, paths, load.closed(clients, self._asked.seconds), FOLDER)
                self.found["served"].setdefault(str(clients), []).append(asdict(point))
                told = f"{point.per_s:.1f} pictures/s, {point.failed} failed"
                self._console.print(f"  served, {clients} clients: {told}", markup=False)


def programs(contestant: EngineContestant, place: Place, asked: argparse.Namespace) -> list[Program]:
    """The service's own processes, with batches as large as the largest that was measured alone."""
    (place.folder / "redis").mkdir()
    run = contestant.run(max(asked.batches))
    environment = _environment(asked.device) | {
        "REDIS_URL": f"unix://{place.folder}/redis/redis.sock",
        "PORT": str(place.port),
        "MODELS": run.model,
        "MODELS_DIR": run.models_dir,
        "RESNET50_WEIGHTS": "random",
        "CACHE_DIR": run.cache,
        "ENGINE": run.engine,
        "PRECISION": run.precision,
        "ONNXRUNTIME_PROVIDER": run.provider,
        "KERAS_BACKEND": "jax" if run.engine == "jax" else "tensorflow",
        "BATCH_SIZE": str(run.batch_size),
    }
    return [
        Program("Redis", redis_command(place.folder)),
        Program("model server", [sys.executable, "-m", "model_server"], environment),
        Program("web", [sys.executable, "-m", "gunicorn", "-c", "web/gunicorn.conf.py"], environment),
    ]


def best(rates: dict[str, list[float]]) -> list[float]:
    """Of each round, the best rate of all sizes of batch."""
    return [max(turn) for turn in zip(*rates.values(), strict=False)]


def ratio(bare: dict[str, list[float]], points: Sequence[Point]) -> float:
    """The service's rate as a share of the engine's alone: the median of the rounds, each by itself."""
    return statistics.median(point.per_s / alone for point, alone in zip(points, best(bare), strict=False))


def web_share(point: Point) -> float:
    """The web tier's share of the CPU time that the service spends on a picture."""
    own = {kind: spent for kind, spent in point.cpu_ms.items() if kind != "client"}
    return own.get("web", 0.0) / (sum(own.values()) or 1.0)


def tables(found: dict[str, Any]) -> list[Table]:
    """The engines alone, then the service."""
    bare = Table(
        Column("", no_wrap=True),
        title=f"Engines alone on the {found['device']}, pictures/s",
        title_justify="left",
    )
    rates: dict[str, dict[str, list[float]]] = found["bare"]
    for batch in next(iter(rates.values()), {}):
        bare.add_column(f"batch {batch}", justify="right", no_wrap=True)
    bare.add_column("start s", justify="right", no_wrap=True)
    for name, by_batch in rates.items():
        row = [f"{statistics.median(each):.1f}" for each in by_batch.values()]
        bare.add_row(name, *row, f"{statistics.median(found['starts'][name]):.1f}")
    engine = found.get("served engine", "")
    title = f"ResNet50 through the whole service, {engine}"
    caption = (
        "x: of the engine alone at its best. CPU: of the service, a request. others: cores that they took."
    )
    served = Table("clients", title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in ("pictures/s", "x", "p50 ms", "p99 ms", "failed", "CPU ms", "web's share", "others"):
        served.add_column(column, justify="right")
    for clients, rounds in found["served"].items():
        points = [Point(**each) for each in rounds]
        shown = median(points)
        spent = sum(each for kind, each in shown.cpu_ms.items() if kind != "client")
        served.add_row(
            clients,
            f"{shown.per_s:.1f}",
            f"{ratio(rates[engine], points):.2f}",
            f"{shown.p50_ms:.1f}",
            f"{shown.p99_ms:.1f}",
            str(shown.failed),
            f"{spent:.2f}",
            f"{web_share(shown):.0%}",
            f"{shown.others:.1f}",
        )
    return [bare, served]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit status: 2 where there is nothing to measure on, 1 where nothing worked."""
    asked = _arguments(arguments)
    console = Console(highlight=False, width=120)
    lacks = {}
    if asked.device == "gpu":
        installed = [package.name for package in importlib.metadata.distributions()]
        lacks = missing(installed, has_gpu=choice.has_nvidia_gpu())
        if "machine" in lacks or not {each.engine for each in CONTESTANTS["gpu"]} - lacks.keys():
            console.print("The GPU can't be measured here. Missing:")
            for engine, what in lacks.items():
                console.print(f"- {what}" + ("" if engine == "machine" else f", for {engine}"), markup=False)
            console.print("`--device cpu` measures the same on the CPU.", markup=False)
            return IMPOSSIBLE
    FOLDER.mkdir(parents=True, exist_ok=True)
    campaign = GpuCampaign(asked, console)
    campaign.without(lacks)
    status = 0
    try:
        campaign.run()
    except BenchmarkFailed as error:
        console.print(str(error), markup=False)
        status = 1
    asked.out.write_text(json.dumps(campaign.found, indent=1) + "\n")
    for table in tables(campaign.found):
        console.print(table)
    console.print(f"Written: {asked.out}", soft_wrap=True, markup=False)
    return status


def _environment(device: str) -> dict[str, str]:
    """What every process gets; on the CPU no framework sees a GPU."""
    hidden = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "cpu" else {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **hidden}


def _gpu_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=tuple(CONTESTANTS), default="gpu", help="what to measure (gpu)")
    parser.add_argument("--rounds", type=whole, default=3, help="of all engines and the service (3)")
    parser.add_argument("--seconds", type=number, default=5.0, help="of each measurement (5)")
    parser.add_argument("--batches", type=_counts, default=_BATCHES, help="sizes of batch (1,2,4,...,64)")
    parser.add_argument("--clients", type=_counts, default=_CLIENTS, help="of the service (1,32,128)")
    parser.add_argument("--only", action="append", help="engines whose row begins so; may be repeated")
    parser.add_argument("--out", type=Path, default=FOLDER / "results.json", help="where the JSON goes")
    return parser.parse_args(arguments)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(whole(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
