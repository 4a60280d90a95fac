"""`python -m benchmarks.load_tester`: what the load tester costs, against wrk on a route that does nothing.

Owns the comparison and how it is shown: the same bytes over as many connections, in turns within one run,
since a machine's figures change with its other work. Must not judge them.
"""

import argparse
import io
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Final

from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.programs import CONNECTIONS, ROOT, Accuracy, Bench, BenchmarkFailed, Run, null_server
from loadtest.cli.units import number, shown, whole

_PICTURES: Final = {"100 KB": 100_000, "1 KB": 1_000}


def main() -> int:
    """Measure; return the exit status: 2 without wrk, 1 when a program failed."""
    asked = _asked()
    console = Console(highlight=False)
    if not shutil.which("wrk"):
        console.print("wrk is missing, which the load tester is measured against (apt install wrk).")
        return 2
    try:
        told = _measure(asked, console)
    except BenchmarkFailed as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load_tester",
        description="Compare stress_test.py with wrk on a server that does nothing.",
    )
    parser.add_argument("--seconds", type=whole, default=4, metavar="N", help="of each run (default: 4)")
    parser.add_argument("--rounds", type=whole, default=3, metavar="N", help="of all programs (default: 3)")
    parser.add_argument("--rate", type=number, default=500.0, help="of the open loop (default: 500/s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of every round")
    parser.add_argument(
        "--program", type=Path, default=ROOT / "stress_test.py", metavar="FILE", help="another stress_test.py"
    )
    return parser.parse_args()


def _measure(asked: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run everything, showing each part when it has ended; return the figures of every round."""
    told: dict[str, Any] = {"before": _machine(), "closed": {}, "open": {}}
    console.print(f"{asked.rounds} rounds, {asked.seconds} s each run. {told['before']}.", soft_wrap=True)
    with tempfile.TemporaryDirectory() as folder, null_server() as (server, url):
        program = asked.program.resolve()
        bench = Bench(Path(folder), server, url, stress_test=program, seconds=asked.seconds)
        pictures = {name: _draw(Path(folder) / f"{size}.jpg", size) for name, size in _PICTURES.items()}
        for name, picture in pictures.items():
            closed = [_closed_round(bench, picture) for _ in range(asked.rounds)]
            console.print(_closed_table(name, closed))
            told["closed"][name] = [{key: asdict(run) for key, run in each.items()} for each in closed]
        for name, picture in pictures.items():
            opened = [bench.accuracy(picture, asked.rate) for _ in range(asked.rounds)]
            console.print(_open_table(name, opened, asked.rate))
            told["open"][name] = [asdict(each) for each in opened]
    told["after"] = _machine()
    console.print(f"After it, its own processes included: {told['after']}.", soft_wrap=True)
    return told


def _machine() -> str:
    load = ", ".join(f"{each:.2f}" for each in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, load average {load}"


def _draw(path: Path, least_bytes: int) -> Path:
    """Draw noise, the same each time, on as large a picture as gives a JPEG of about so many bytes."""
    chance = random.Random(0)
    for side in count(8, 4):
        picture = Image.frombytes("L", (side, side), chance.randbytes(side * side))
        picture.save(jpeg := io.BytesIO(), "JPEG")
        if jpeg.tell() >= least_bytes:
            break
    path.write_bytes(jpeg.getvalue())
    return path


def _closed_round(bench: Bench, picture: Path) -> dict[str, Run]:
    """Run every program once, wrk first."""
    return {
        "wrk": bench.wrk(picture),
        "1 process": bench.closed_loop(picture, 1),
        "2 processes": bench.closed_loop(picture, 2),
    }


def _closed_table(size: str, rounds: list[dict[str, Run]]) -> Table:
    """Medians of the rounds, and how many times wrk's they are. As wide as a terminal of 80 columns."""
    title = f"wrk, and stress_test.py with 1 and 2 processes: {size}, {CONNECTIONS} connections"
    caption = "CPU of a request, of all client processes. A server near 100% was the bound."
    table = Table("", title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in ("requests/s", "x wrk", "CPU ms", "x wrk", "p50 ms", "p99 ms", "server"):
        table.add_column(column, justify="right", no_wrap=True)
    wrk = _medians([asdict(each["wrk"]) for each in rounds])
    for name in rounds[0]:
        of = _medians([asdict(each[name]) for each in rounds])
        per_s, cpu_ms = ((shown(of[key]), shown(of[key] / wrk[key])) for key in ("per_s", "cpu_ms"))
        busy = f"{of['server_busy']:.0%}"
        table.add_row(name, *per_s, *cpu_ms, shown(of["p50_ms"]), shown(of["p99_ms"]), busy)
    return table


def _open_table(size: str, rounds: list[Accuracy], rate: float) -> Table:
    of = _medians([asdict(each) for each in rounds])
    table = Table("", title=f"stress_test.py with 1 process: {size}, {rate:g}/s", title_justify="left")
    for column in ("p50 ms", "x wrk", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("sent later than due", shown(of["late_p50"]), "", shown(of["late_p99"]))
    latencies = {
        f"latency, open loop, {rate:g}/s": of["open_p50"],
        "latency, closed loop, 1 client": of["closed_p50"],
        "latency of wrk, 1 connection": of["wrk_p50"],
    }
    for name, latency in latencies.items():
        table.add_row(name, shown(latency), shown(latency / of["wrk_p50"]), "")
    return table


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


if __name__ == "__main__":
    sys.exit(main())
