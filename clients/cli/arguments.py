"""The command line's declarations: every argument, its notation and its default. Owns the help text."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from clients.client import URL

_EXAMPLES: Final = """\
examples:
  python -m clients photo*.jpg --model digits            a line for each picture
  python -m clients photos/ --jsonl > answers.jsonl      whole answers, as JSON lines
  python -m clients photos/ -r --output answers.jsonl    resumable: the same command goes on where it stopped

BATCHWIRE_API_KEY has the API key, where the service asks for one.

exit status: 0 all pictures are answered; 1 some failed (each is named); 2 nothing could be tried; 130 Ctrl-C.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandOptions:
    """What the command line asks for."""

    paths: tuple[str, ...]
    recursive: bool
    url: str
    model: str | None
    top: int | None
    as_json: bool
    output: Path | None
    concurrency: int
    timeout_s: float
    retry_s: float


class _Parser(argparse.ArgumentParser):
    """One whose complaint is not buried under its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n--help lists all options.\n")


def parse(arguments: list[str]) -> CommandOptions:
    """Read the command line; end the process where it is wrong, or asks for help."""
    parser = _parser()
    # Options may stand between files. Of what follows `--`, argparse of Python 3.11 then takes nothing.
    is_mixed = "--" not in arguments
    namespace = parser.parse_intermixed_args(arguments) if is_mixed else parser.parse_args(arguments)
    return CommandOptions(
        paths=tuple(namespace.paths),
        recursive=namespace.recursive,
        url=namespace.url,
        model=namespace.model,
        top=namespace.top,
        as_json=namespace.jsonl or namespace.output is not None,
        output=namespace.output,
        concurrency=namespace.concurrency,
        timeout_s=namespace.timeout,
        retry_s=namespace.retry,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m clients",
        description="Ask a running service about pictures, several at a time.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PICTURE_OR_FOLDER",
        help="of a folder, every file with a picture's ending",
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="look into folders of folders as well")
    parser.add_argument("--url", default=URL, help=f"the service (default: {URL})")
    parser.add_argument("--model", help="the model that answers (default: the service's)")
    parser.add_argument("--top", type=_whole, metavar="N", help="how many predictions an answer has")
    parser.add_argument(
        "--jsonl", action="store_true", help="print a JSON line for each picture, not a table"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the JSON lines to FILE; what this model has answered there is not asked again",
    )
    parser.add_argument(
        "-c", "--concurrency", type=_whole, default=8, metavar="N", help="pictures at a time (default: 8)"
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="seconds without an answer (default: 30)"
    )
    parser.add_argument(
        "--retry",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="seconds for which a picture that the service can't take now is sent again (default: 60)",
    )
    return parser


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text[:9]) < 1 or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds
