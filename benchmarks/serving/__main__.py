"""`make bench`, `python -m benchmarks.serving`: all servers side by side; tables, plot and raw figures.

Owns the command line and what is written. How it is measured is campaign.py's.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console

from benchmarks.programs import ROOT, BenchmarkFailed
from benchmarks.serving import pictures, report
from benchmarks.serving.campaign import Campaign, CampaignPlan
from benchmarks.serving.venvs import VenvUnavailable
from loadtest.cli.units import number, whole

FOLDER: Final = ROOT / "var" / "bench"


def main() -> int:
    """Measure; return the exit status: 1 when nothing could be measured, 130 when interrupted."""
    asked = _arguments()
    console = Console(highlight=False, soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupt)
    FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = asked.picture or pictures.draw(FOLDER / "pictures")
    quick = asked.quick
    plan = CampaignPlan(
        pictures=[path.resolve() for path in chosen],
        rounds=asked.rounds or (1 if quick else 3),
        seconds=asked.seconds or (3.0 if quick else 8.0),
        clients=asked.concurrency or ([1, 32] if quick else [1, 8, 32, 128]),
        only=asked.only or [],
        parts=set(asked.part or ("serving", "null", "headline", "stages")),
        headline=60 if quick else 500,
        network=asked.network.resolve() if asked.network else None,
        patience_s=asked.patience,
    )
    campaign = Campaign(plan, FOLDER, say=lambda text: console.print(text, markup=False))
    try:
        campaign.run()
    except (BenchmarkFailed, VenvUnavailable) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; what was measured is below.", markup=False)
        status = 130
    else:
        status = 0
    found = campaign.found
    (FOLDER / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    text = report.markdown(found)
    (FOLDER / "results.md").write_text(text)
    report.plot(found, FOLDER / "results.svg")
    report.plot(found, FOLDER / "results.png")
    sys.stdout.write(f"\n{text}\nWritten: results.md, .json, .svg and .png in {FOLDER.relative_to(ROOT)}.\n")
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description="Compare image servers."
    )
    parser.add_argument(
        "picture", nargs="*", type=Path, help="JPEGs to send (default: drawn ones, 1280 x 720, 100 KB)"
    )
    parser.add_argument("--quick", action="store_true", help="a short look: 1 round of 3 s, 1 and 32 clients")
    parser.add_argument("--rounds", type=whole, metavar="N", help="of all contenders (default: 3)")
    parser.add_argument("--seconds", type=number, metavar="S", help="of each load (default: 8)")
    parser.add_argument(
        "--concurrency", type=_counts, metavar="N,N", help="numbers of clients (default: 1,8,32,128)"
    )
    parser.add_argument(
        "--network",
        type=Path,
        metavar="FILE.xml",
        help="for all but the product's own engine (default: made here)",
    )
    parser.add_argument(
        "--patience",
        type=number,
        default=20.0,
        metavar="S",
        help="waited for others to be quiet (default: 20)",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="contenders whose name begins so; may be repeated"
    )
    parser.add_argument(
        "--part", action="append", choices=("serving", "null", "headline", "stages"), help="default: all"
    )
    return parser.parse_args()


def _counts(text: str) -> list[int]:
    return [whole(part) for part in text.split(",")]


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
