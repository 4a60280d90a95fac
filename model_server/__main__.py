"""`python -m model_server [COMMAND]`: serve, or run one of the commands that maintain models and queues.

Owns the choice of the command, not what it does: each command is a module of commands/, imported only when it
is chosen, so that a serving process never loads Pillow and a health check loads next to nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from telemetry import tracing

_COMMANDS: Final = {
    "serve": "serve the models of MODELS until SIGTERM; the default",
    "check": "read a model's folder, load its network and classify a picture",
    "new": "make a model's folder from a network's file",
    "quantise": "make an int8 network of a model, calibrated on your pictures",
    "dead-letters": "list, requeue or drop the jobs that were set aside as poison",
    "health": "exit with 0 if the model servers on this machine serve and hold their leases",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "serve")
    command = _parser().parse_args(words[:1]).command
    match command:
        case "serve":
            from model_server.commands.serve import main as run
        case "check":
            from model_server.commands.check import main as run
        case "new":
            from model_server.commands.new import main as run
        case "quantise":
            from model_server.commands.quantise import main as run
        case "dead-letters":
            from model_server.commands.dead_letters import main as run
        case "health":
            from model_server.commands.health import main as run
    return run(words[1:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model_server",
        description="Batchwire's model server. Settings are environment variables: docs/settings.md.",
        epilog="`python -m model_server COMMAND --help` describes a command.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in _COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    return parser


if __name__ == "__main__":
    tracing.hold_back()
    sys.exit(main())
