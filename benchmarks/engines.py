"""`python -m benchmarks.engines`: the engines alone, side by side on the same pictures.

Owns the rounds and the table. Each engine is a process of its own that serves nothing; they take turns, so
that what else the machine does costs all alike: quote the ratios. Reads no settings.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
from rich.console import Console
from rich.table import Column, Table

from benchmarks.engine_process import EngineRun
from benchmarks.programs import BenchmarkFailed

_ROOT: Final = Path(__file__).resolve().parent.parent
_BATCHES: Final = (1, 8, 32)

_CONTESTANTS: Final = (
    ("tf.function", "tensorflow", "fp32"),
    ("tensorflow frozen", "tensorflow", "fp32"),
    ("openvino fp32", "openvino", "fp32"),
    ("openvino bf16", "openvino", "bf16"),
    ("openvino int8", "openvino", "int8"),
    ("onnxruntime fp32", "onnxruntime", "fp32"),
)
"""What a row is called, its engine, its precision. The first that runs the model is what every other is
compared with: of an ONNX file, OpenVINO in fp32."""


@dataclass(frozen=True, slots=True)
class EngineRate:
    """One turn of one engine."""

    per_s: float
    """Images a second."""
    cpu_ms: float
    """CPU milliseconds an image: what others do meanwhile matters less to it."""


@dataclass(slots=True)
class Contestant:
    """An engine's process, warm, and what it told of its start."""

    name: str
    told: dict[str, Any]
    process: "subprocess.Popen[str]"
    turns: dict[int, list[EngineRate]]

    def measure(self, batch: int, seconds: float) -> None:
        """One turn: images a second in batches of `batch`."""
        self.turns.setdefault(batch, []).append(rate(self.process, batch, seconds))


def main() -> int:
    """Start all, take turns, print the table; return the exit status."""
    asked = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with contextlib.ExitStack() as stack:
        contestants = []
        for name, engine, precision in _CONTESTANTS:
            run = EngineRun(
                engine,
                precision,
                str(asked.cache),
                model=asked.model,
                models_dir=str(asked.models_dir),
                weights=asked.weights,
                has_variables=name == "tf.function",
            )
            started = stack.enter_context(engine_started(run, times=2))
            if "error" in started[1]:
                console.print(f"{name} is left out: {started[1]['error']}", soft_wrap=True)
                continue
            contestants.append(Contestant(name, started[1], started[0], {}))
        for _ in range(asked.rounds):
            for batch in _BATCHES:
                for each in contestants:
                    each.measure(batch, asked.seconds)
    console.print(_table(asked, contestants))
    return 0


@contextlib.contextmanager
def engine_started(
    run: EngineRun, *, times: int = 1, environment: Mapping[str, str] = os.environ
) -> "Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]":
    """An engine's process, started so many times, and what it says once warm; ended with the block."""
    line = [sys.executable, "-m", "benchmarks.engine_process", msgspec.json.encode(run).decode()]
    pipe = subprocess.PIPE
    starts_s: list[float] = []
    while True:
        process = subprocess.Popen(  # noqa: S603 - ours
            line, cwd=_ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        told = _told(process.stdout)
        starts_s.append(told.get("start_s", 0.0))
        if len(starts_s) == times or "error" in told:
            break
        _end(process)
    try:
        yield process, told | {"first_s": starts_s[0]}
    finally:
        _end(process)


def rate(process: "subprocess.Popen[str]", batch: int, seconds: float) -> EngineRate:
    """What a warm engine's process does in batches of `batch`. Raises BenchmarkFailed."""
    answer = _ask(process, {"batch": batch, "seconds": seconds})
    if "error" in answer:
        raise BenchmarkFailed(answer["error"])
    return EngineRate(**answer)


def _end(process: "subprocess.Popen[str]") -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.wait()


def _ask(process: "subprocess.Popen[str]", question: dict[str, Any]) -> dict[str, Any]:
    if process.stdin is None:
        raise RuntimeError("the process has no stdin. This is a bug")
    process.stdin.write(f"{json.dumps(question)}\n")
    process.stdin.flush()
    return _told(process.stdout)


def _told(stdout: IO[str] | None) -> dict[str, Any]:
    line = stdout.readline() if stdout is not None else ""
    answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
    return answer


def _table(asked: argparse.Namespace, contestants: list[Contestant]) -> Table:
    title = f"{asked.model}, weights: {asked.weights or 'its own'}; images/s, medians of {asked.rounds} turns"
    caption = (
        "x: median ratio to the first row, turn by turn, in batches of 32; CPU ms: an image, likewise. "
        "Resident: once it is warm."
    )
    name = Column("", no_wrap=True)
    table = Table(name, title=title, caption=caption, title_justify="left", caption_justify="left")
    rest = ("x", "CPU ms", "first s", "second s", "resident MB")
    for column in (*(f"batch {batch}" for batch in _BATCHES), *rest):
        table.add_column(column, justify="right", no_wrap=True)
    for each in contestants:
        pairs = list(zip(each.turns[32], contestants[0].turns[32], strict=True))
        table.add_row(
            each.name,
            *(f"{statistics.median(turn.per_s for turn in each.turns[batch]):.1f}" for batch in _BATCHES),
            f"{statistics.median(own.per_s / first.per_s for own, first in pairs):.2f}",
            f"{statistics.median(own.cpu_ms for own, _ in pairs):.1f}",
            f"{each.told['first_s']:.1f}",
            f"{each.told['start_s']:.1f}",
            f"{each.told['resident_mb']:.0f}",
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--model", default="resnet50", help="a model (resnet50)")
    parser.add_argument("--models-dir", type=Path, default=_ROOT / "models", help="of --model (models)")
    parser.add_argument("--weights", default="random", help="of a network of keras.applications (random)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each (7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="a turn (2)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=_ROOT / "var" / "engines",
        help="where converted networks lie (var/engines); empty, it shows the first start",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
