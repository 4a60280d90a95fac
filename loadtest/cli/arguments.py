"""The command line's declarations: every argument, its notation and its default.

Owns the help text. What the arguments mean together is options.py's.
"""

import argparse
from pathlib import Path
from typing import Final, NoReturn

from loadtest.cli import units
from loadtest.faults import fault_commands
from loadtest.measuring import slo

_EXAMPLES: Final = """\
examples:
  stress_test.py                                       500 requests, one every 50 ms, to localhost:5000
  stress_test.py photos/ --concurrency 1,8,32          three loads, pictures of a folder
  stress_test.py --rate 10:100:10 --report out.html    a throughput-against-latency curve
  stress_test.py --slo p99=200ms                       the highest rate that meets it
  stress_test.py --rate 50 --slo p99=200ms             exit status 1 if it is missed
"""


class _Parser(argparse.ArgumentParser):
    """One whose complaint is not buried under its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n--help lists all options.\n")


def parser() -> argparse.ArgumentParser:
    """Every argument, in groups."""
    parser = _Parser(
        prog="stress_test.py",
        description="Send pictures to an HTTP service, check every answer, and report its speed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # options.py must know every spelling of --header, to hide what follows it.
        allow_abbrev=False,
    )
    _add_traffic(parser.add_argument_group("what is sent"))
    _add_load(parser.add_argument_group("the load"))
    _add_faults(parser.add_argument_group("faults during the run"))
    _add_target(parser.add_argument_group("the service"))
    _add_output(parser.add_argument_group("output"))
    _add_reading(parser.add_argument_group("instead of a run"))
    return parser


def _add_traffic(group: argparse._ArgumentGroup) -> None:
    group.add_argument("paths", nargs="*", metavar="PICTURE_OR_FOLDER", help="default: drawn pictures")
    group.add_argument(
        "--draw", type=units.size, default=(640, 480), metavar="WxH", help="size of drawn pictures"
    )
    group.add_argument(
        "--draw-count", type=units.whole, default=8, metavar="N", help="how many to draw (default: 8)"
    )
    group.add_argument(
        "--model",
        type=units.models,
        default=(("", 1.0),),
        help="one model, or several in proportion: resnet50=3,digits=1",
    )
    group.add_argument("--top", type=units.whole, help="how many predictions to ask for")
    group.add_argument(
        "--async",
        dest="polled",
        type=units.share,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SHARE",
        help="send as jobs that are polled: all, or a share, for example 25%%",
    )
    group.add_argument(
        "--expect",
        default="",
        metavar="FILE",
        help="the correct labels: CSV with columns file,label[,model], or the --ledger of an earlier run",
    )
    group.add_argument("--seed", type=int, default=0, help="for Poisson arrivals, drawn pictures and strikes")


def _add_load(group: argparse._ArgumentGroup) -> None:
    loop = group.add_mutually_exclusive_group()
    loop.add_argument(
        "--rate",
        type=units.values,
        metavar="R",
        help="open loop, requests a second: 20, 10,50 or 10:200:10 (from:to:step)",
    )
    loop.add_argument(
        "--concurrency",
        type=units.values,
        metavar="C",
        help="closed loop, clients that each wait for an answer: 8, 1,8,32 or 8:64:8",
    )
    group.add_argument("--poisson", action="store_true", help="random instead of evenly spaced arrivals")
    group.add_argument(
        "--requests", type=units.whole, help="of each load (default: 500, if there is one load)"
    )
    group.add_argument(
        "--duration", type=units.seconds, help="of each load (default: 10s, if there are several)"
    )
    group.add_argument(
        "--warmup", type=units.seconds, help="time not measured (default: 1s with several loads)"
    )
    group.add_argument(
        "--stable",
        type=units.share,
        metavar="SHARE",
        help="end a load once three windows agree in rate and median within this share, for example 5%%",
    )
    group.add_argument("--window", type=units.seconds, default=2.0, help="of --stable (default: 2s)")
    group.add_argument(
        "--slo",
        type=slo.parse,
        metavar="SLO",
        help="p99=200ms,errors=1%%: checked for each load; without --rate and --concurrency, the highest "
        "rate that meets it is searched",
    )
    group.add_argument(
        "--search", action="store_true", help="search between the two rates of --rate LOW,HIGH"
    )
    group.add_argument(
        "--within", type=units.share, default=0.05, help="precision of a search (default: 5%%)"
    )
    group.add_argument(
        "--processes", type=units.whole, help="client processes (default: half the cores, at most 4)"
    )


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="COMMAND",
        help="strike with this command during the load (no shell: write sh -c '...') and account for every "
        f"request; several are run in turn; killed after {fault_commands.LIMIT_S:g} s",
    )
    group.add_argument(
        "--every",
        type=units.seconds,
        default=10.0,
        metavar="TIME",
        help="time from the end of a strike to the next, varied by a quarter (default: 10s)",
    )


def _add_target(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--url",
        default="http://localhost:5000",
        help="a Batchwire server, or the full URL of another service's route; may contain {model}",
    )
    group.add_argument("--field", default="image", help="form field of the picture (default: image)")
    group.add_argument(
        "--body",
        default="multipart",
        metavar="FORM",
        help="multipart, raw, or a file with a template: $image_base64, $name, $model",
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="a request header; never written to a file",
    )
    group.add_argument(
        "--api-key",
        default="",
        metavar="VARIABLE",
        help="the environment variable that has the API key; or @FILE, a file with it",
    )
    group.add_argument(
        "--label",
        default="",
        metavar="JMESPATH",
        help="where the label is in another service's answer; in a list of scores the largest's index counts",
    )
    group.add_argument("--timeout", type=units.seconds, default=15.0, help="for each request (default: 15s)")
    group.add_argument(
        "--connections", type=units.whole, default=1000, help="most connections of a process (default: 1000)"
    )
    group.add_argument("--no-keep-alive", action="store_true", help="a new connection for each request")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    group.add_argument("--csv", type=Path, metavar="FILE", help="a row for each load")
    group.add_argument("--report", type=Path, metavar="FILE", help="one HTML page with plots")
    group.add_argument("--ledger", type=Path, metavar="FILE", help="a line for each request")


def _add_reading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help="two files of --json, load by load"
    )
    group.add_argument(
        "--tolerance",
        type=units.share,
        default=0.1,
        help="how much worse a figure of --compare may be before the exit status is 1 (default: 10%%)",
    )
    group.add_argument(
        "--check-ledger",
        type=Path,
        metavar="FILE",
        help="check that a ledger is consistent; --expect gives the labels",
    )
