"""`python -m tests.chaos [faults|overload|crowd|memory|uploads]`: the tables of docs/reliability.md.

Owns the command line and the tables. Without a name all are run.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console

from tests.chaos import campaign, fail_over, memory, overload, slots, uploads
from tests.chaos.campaign import Account
from tests.chaos.fail_over import FAIL_OVERS
from tests.chaos.hosts import PARTITIONS
from tests.chaos.slots import SLOTS
from tests.chaos.stack import FAULTS
from tests.support.network import missing
from tests.support.redis_server import running_redis

HEAD = (
    "| fault | strikes | requests | right | refused (503) | cut with their process | lost | wrong "
    "| run again | slowest answer, s | recovered: number, p99 in s |"
)


def row(account: Account) -> str:
    """One line of the table."""
    recovered = f"{account.recovered}, {account.recovered_p99_s:.2f}" if account.recovered_p99_s else "0"
    cells = [account.fault, account.strikes, account.requests, account.right, account.refused, account.cut]
    cells += [sum(account.lost.values()), len(account.wrong), account.executed_again]
    cells += [f"{account.slowest_s:.2f}", recovered]
    return "| " + " | ".join(map(str, cells)) + " |"


def faults(console: Console, options: argparse.Namespace) -> bool:
    """Strike with each fault; return whether nothing was lost or wrong."""
    console.print(HEAD)
    console.print("|---" * HEAD.count(" | ") + "|---|")
    sound = True
    for name in (*FAULTS, *PARTITIONS, *FAIL_OVERS, *SLOTS):
        if options.only not in name:
            continue
        if name in PARTITIONS and (reason := missing()):
            console.print(f"| {name} | NOT RUN: {reason}")
            continue
        folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=options.keep))
        account, polled = _struck(name, folder, options)
        console.print(row(account))
        if polled:
            console.print(
                f"    polled meanwhile: {', '.join(f'{kind} {n}' for kind, n in sorted(polled.items()))}"
            )
        sound = sound and not polled.keys() - {"kept", "job_lost", "refused"}
        for trouble in [*map(str, account.lost.items()), *account.wrong[:5], *account.keys_left]:
            sound = False
            console.print(f"    {trouble} (see {folder})")
    return sound


def _struck(name: str, folder: Path, options: argparse.Namespace) -> tuple[Account, Counter[str]]:
    """The account, and what became of polled jobs where the fault may lose some."""
    how_often, rate, seed = options.strikes, options.rate, options.seed
    if name in FAIL_OVERS:
        return fail_over.run(
            name, strikes=how_often, rate=rate, seed=seed, folder=folder, replicas=options.replicas
        )
    if name in SLOTS:
        return slots.run(name, strikes=how_often, rate=rate, seed=seed, folder=folder), Counter()
    if strike := PARTITIONS.get(name):
        account = campaign.run_on_hosts(name, strike, strikes=how_often, rate=rate, seed=seed, folder=folder)
        return account, Counter()
    with running_redis() as redis:
        account = campaign.run(
            name, FAULTS[name], strikes=how_often, rate=rate, seed=seed, folder=folder, redis=redis
        )
    return account, Counter()


def overloaded(console: Console, options: argparse.Namespace) -> bool:
    """Press three times as hard as the models can; return whether all was refused or answered."""
    with running_redis() as redis:
        found = overload.run(
            seconds=options.seconds, folder=Path(tempfile.mkdtemp(dir=options.keep)), redis=redis
        )
    console.print("\n| overload | |\n|---|---|")
    for name, value in dataclasses.asdict(found).items():
        console.print(f"| {name} | {_shown(value)} |")
    return found.unhealthy == 0 and set(found.outcomes) == {"ok", "http 503 overloaded"}


def crowded(console: Console, options: argparse.Namespace) -> bool:
    """Have a crowd press a slow network; return whether it still does nine tenths of its work."""
    with running_redis() as redis:
        found = overload.slow(
            seconds=options.seconds / 2, folder=Path(tempfile.mkdtemp(dir=options.keep)), redis=redis
        )
    console.print("\n| a crowd before a slow network | |\n|---|---|")
    for name, value in dataclasses.asdict(found).items():
        console.print(f"| {name} | {_shown(value)} |")
    return found.right_per_s >= 0.9 * found.best_per_s and not found.executed_in_vain


def remembered(console: Console, options: argparse.Namespace) -> bool:
    """Send many requests; return whether each was answered rightly."""
    with running_redis() as redis:
        found = memory.run(
            requests=options.requests, folder=Path(tempfile.mkdtemp(dir=options.keep)), redis=redis
        )
    console.print("\n| memory | |\n|---|---|")
    for name, value in dataclasses.asdict(found).items():
        console.print(f"| {name} | {_shown(value)} |")
    return found.right == found.requests


def hostile_uploads(console: Console, options: argparse.Namespace) -> bool:
    """Send what is hostile or broken; return whether each was answered as it should be."""
    with running_redis() as redis:
        found = uploads.run(
            seconds=options.seconds / 2, folder=Path(tempfile.mkdtemp(dir=options.keep)), redis=redis
        )
    console.print("\n| what is sent | status | code, or label | answered after, ms |\n|---|---|---|---|")
    for case, answer in found.answers:
        console.print(f"| {case.name} | {answer.status} | `{answer.told}` | {answer.after_ms:.0f} |")
    console.print(
        f"\ngood pictures refused between them: {found.good_refused}\n\n| slow clients | |\n|---|---|"
    )
    for name, value in dataclasses.asdict(found.crowd).items():
        console.print(f"| {name} | {_shown(value)} |")
    return found.sound


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return " to ".join(map(_shown, value))
    return f"{value:.1f}" if isinstance(value, float) else str(value)


CAMPAIGNS = {
    "faults": faults,
    "overload": overloaded,
    "crowd": crowded,
    "memory": remembered,
    "uploads": hostile_uploads,
}


def main() -> int:
    """Run the campaigns; return 1 when anything was lost or wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("campaigns", nargs="*", choices=[[], *CAMPAIGNS], metavar="|".join(CAMPAIGNS))
    parser.add_argument("--strikes", type=int, default=20, help="of each fault (default: 20)")
    parser.add_argument("--rate", type=float, default=50, help="requests a second (default: 50)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=0, help="REDIS_REPLICAS, of fail-overs (default: 0)")
    parser.add_argument("--only", default="", help="part of a fault's name")
    parser.add_argument(
        "--seconds", type=float, default=60, help="of overload, half of it of slow clients (default: 60)"
    )
    parser.add_argument("--requests", type=int, default=50_000, help="of memory (default: 50000)")
    parser.add_argument("--keep", type=Path, help="a folder for ledgers and logs")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    sound = [CAMPAIGNS[name](console, options) for name in options.campaigns or CAMPAIGNS]
    return int(not all(sound))


if __name__ == "__main__":
    sys.exit(main())
