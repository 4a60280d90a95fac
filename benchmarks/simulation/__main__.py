"""The command line: `python -m benchmarks.simulation run|table|measure|check`.

Owns the arguments and their errors. What they ask for is in the modules of the same names.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.simulation import arrivals, costs, network, report
from benchmarks.simulation.arrivals import BadTimes, Curve
from benchmarks.simulation.costs import BadCosts
from benchmarks.simulation.network import NetworkSpeed
from benchmarks.simulation.parts import Window
from benchmarks.simulation.service import Fleet, ServiceSimulation
from loadtest.cli import units
from settings import SettingError, Settings

HEEDED: Final = (
    "BATCH_SIZE",
    "BATCH_WAIT_MS",
    "LEASE_S",
    "QUEUE_LIMIT",
    "QUEUE_LIMIT_MB",
    "QUEUE_SHARDS",
    "REQUEST_TIMEOUT_S",
    "WEB_THREADS",
    "WEB_WORKERS",
)
"""Settings of the service that change what a simulation sees."""

_EXAMPLES: Final = """\
examples:
  a network of 40 ms a call and 10 ms a picture, 60 pictures a second at random:
    python -m benchmarks.simulation run --rate 60 --call 40+10n
  a measured network, two model servers, larger batches that may fill up:
    python -m benchmarks.simulation run --rate 300 --call 1:12,8:40,32:130 --model-servers 2 \\
      --set BATCH_SIZE=64 --set BATCH_WAIT_MS=5
  a fleet on several hosts, a day in ten minutes with 900 pictures a second at noon:
    python -m benchmarks.simulation run --curve day --rate 500 --peak 900 --duration 10min --call 2+1n \\
      --web-hosts 2 --web-cores 8 --redis-nodes 2 --set QUEUE_SHARDS=4 --round-trip 0.3ms
  the times of your own access log, as seconds, a line each; figures as JSON:
    python -m benchmarks.simulation run --times times.txt --call 40+10n --json run.json
"""


def _network(text: str) -> NetworkSpeed:
    try:
        return NetworkSpeed.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _network_text(text: str) -> str:
    _network(text)
    return text


def _input(text: str) -> tuple[int, int, int]:
    sides = text.split("x")
    if len(sides) != 3 or not all(side.isdecimal() and 0 < int(side) <= 4096 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a model's input: write 224x224x3")
    height, width, channels = map(int, sides)
    if channels not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text!r}: an input has 1 or 3 channels")
    return height, width, channels


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if name not in HEEDED or not value:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a setting that a simulation heeds: write NAME=VALUE with one of "
            + ", ".join(HEEDED)
        )
    return name, value


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the network")
    group.add_argument(
        "--call",
        type=_network,
        default=NetworkSpeed.read("40+10n"),
        metavar="SPEED",
        help="milliseconds of a call of n pictures: 40+10n, or a table by n: 1:50,8:120,32:360 (40+10n)",
    )
    group.add_argument(
        "--spread", choices=network.SPREADS, default="fixed", help="calls take just that, or vary (fixed)"
    )
    group.add_argument(
        "--input",
        type=_input,
        default=(224, 224, 3),
        metavar="HxWxC",
        help="its input; a job's bytes cost all parts (224x224x3)",
    )


def _add_arrivals(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the pictures that come")
    group.add_argument("--rate", type=units.number, default=60.0, help="a second, on average (60)")
    group.add_argument("--curve", choices=arrivals.CURVES, default="poisson", help="over time (poisson)")
    group.add_argument("--peak", type=units.number, help="the day's highest rate (1.8 times --rate)")
    group.add_argument("--times", type=Path, metavar="FILE", help="a number of seconds a line, instead")
    group.add_argument(
        "--duration", type=units.seconds, default=60.0, help="for so long pictures come; or the day's (60s)"
    )
    group.add_argument("--warmup", type=units.seconds, default=None, help="not counted (a tenth of it)")
    group.add_argument("--seed", type=int, default=0, help="of all that is random (0)")


def _add_fleet(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the fleet")
    group.add_argument("--web-hosts", type=units.whole, default=1, help="hosts of the web tier (1)")
    group.add_argument("--web-cores", type=units.whole, default=2, help="cores of each (2)")
    group.add_argument("--model-servers", type=units.whole, default=1, help="each with a device (1)")
    group.add_argument(
        "--redis-nodes",
        type=units.whole,
        default=1,
        help="Redis processes, each with a core; the queue's shards take turns (1)",
    )
    group.add_argument(
        "--round-trip", type=units.seconds, default=0.0002, help="between a process and Redis (0.2ms)"
    )
    group.add_argument(
        "--one-host", action="store_true", help="Redis and the model servers share the web host's cores"
    )
    group.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the service: " + ", ".join(HEEDED),
    )


def _add_costs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the costs")
    group.add_argument("--costs", type=Path, default=costs.FILE, metavar="FILE", help="(the bundled ones)")
    group.add_argument(
        "--picture", default="1280x720", metavar="WxH", help="an upload that they have (1280x720)"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description="What would a fleet do? A discrete-event simulation of the service, with measured costs.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run", help="simulate one fleet", epilog=_EXAMPLES, formatter_class=parser.formatter_class
    )
    _add_arrivals(run)
    _add_network(run)
    _add_fleet(run)
    _add_costs(run)
    run.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    table = commands.add_parser("table", help="how many of each part a rate needs, and what a core carries")
    table.add_argument(
        "--rates", type=units.values, default=(10.0, 1e3, 1e5), help="pictures a second (10,1000,100000)"
    )
    _add_network(table)
    _add_costs(table)
    measure = commands.add_parser(
        "measure", help="measure this machine's costs with the real service (3 min)"
    )
    measure.add_argument("--seconds", type=units.seconds, default=10.0, help="of each of its loads (10s)")
    measure.add_argument("--out", type=Path, default=costs.FILE, metavar="FILE", help="(the bundled file)")
    check = commands.add_parser("check", help="run the real service and the simulation on the same pictures")
    check.add_argument("--call", type=_network_text, default="40+10n", metavar="SPEED", help="(40+10n)")
    check.add_argument(
        "--loads", type=units.values, default=(0.3, 0.8, 1.5), help="shares of what it can do (0.3,0.8,1.5)"
    )
    check.add_argument("--seconds", type=units.seconds, default=20.0, help="of each load (20s)")
    return parser


def fleet_of(options: argparse.Namespace) -> Fleet:
    """The fleet that the arguments describe. Raises SettingError."""
    if options.one_host and options.web_hosts > 1:
        raise SettingError("--one-host has one web host: leave --web-hosts out.")
    settings = Settings.from_env(dict(options.set))
    if options.redis_nodes > settings.queue_shards:
        raise SettingError(
            f"--redis-nodes {options.redis_nodes} share {settings.queue_shards} of the queue's shards: "
            f"write --set QUEUE_SHARDS={options.redis_nodes} or more."
        )
    heeded = {
        each.name: getattr(settings, each.name) for each in fields(Settings) if each.name.upper() in HEEDED
    }
    return Fleet(
        web_hosts=options.web_hosts,
        web_cores=options.web_cores,
        model_servers=options.model_servers,
        redis_nodes=options.redis_nodes,
        queue_shards=settings.queue_shards,
        round_trip_s=options.round_trip,
        one_host=options.one_host,
        input_shape=options.input,
        settings=replace(Settings(), **heeded),
    )


def _run(options: argparse.Namespace) -> int:
    fleet = fleet_of(options)
    file = costs.read(options.costs)
    its_costs = costs.Costs.of(file, picture=options.picture, input_shape=options.input)
    if options.times:
        times = arrivals.read_times(options.times)
        duration_s = times[-1] or 1.0
    else:
        duration_s = options.duration
        peak = options.peak or 1.8 * options.rate
        if not options.rate <= peak <= 2 * options.rate:
            raise SettingError(f"--peak {peak:g} has to be 1 to 2 times --rate: a night has no fewer than 0.")
        times = list(Curve(options.curve, options.rate, duration_s, peak).times(options.seed))
    warmup_s = duration_s / 10 if options.warmup is None else options.warmup
    if warmup_s >= duration_s:
        raise SettingError(f"--warmup {warmup_s:g} s leaves nothing of {duration_s:g} s to count.")
    speed, window = replace(options.call, spread=options.spread), Window(warmup_s, duration_s)
    found = ServiceSimulation(fleet, speed, its_costs, window=window, seed=options.seed).run(times)
    sys.stdout.write(report.table(found, file.processor))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    return 0


def _table(options: argparse.Namespace) -> int:
    from benchmarks.simulation import sizing

    file = costs.read(options.costs)
    its_costs = costs.Costs.of(file, picture=options.picture, input_shape=options.input)
    speed = replace(options.call, spread=options.spread)
    return sizing.run(speed, file, its_costs, Fleet(input_shape=options.input), options.rates)


def _measure(options: argparse.Namespace) -> int:
    from benchmarks.simulation import measure

    return measure.run(options.seconds, options.out)


def _check(options: argparse.Namespace) -> int:
    from benchmarks.simulation import check

    return check.run(options.call, options.loads, options.seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Arguments that can't be end with status 2 and one sentence."""
    parser = _parser()
    options = parser.parse_args(arguments)
    commands = {"run": _run, "measure": _measure, "check": _check, "table": _table}
    try:
        return commands[options.command](options)
    except (BadCosts, BadTimes, SettingError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
