"""`python -m training COMMAND`: make a model of your own pictures, or the bundled networks again.

Owns the choice of the command, nothing of what it does: each is a module, imported when it is chosen.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Final

_COMMANDS: Final = {
    "retrain": "make a model that can be served from labelled folders of pictures",
    "digits": "train the bundled classifier of handwritten digits",
    "photos10": "train the bundled classifier of CIFAR-10's ten classes",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="python -m training",
        description="Train networks that Batchwire serves: docs/training.md.",
        epilog="`python -m training COMMAND --help` describes a command.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in _COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
    match parser.parse_args(words[:1]).command:
        case "retrain":
            from training.retrain import main as retrain

            return retrain(words[1:])
        case "digits":
            from training.digits import main as digits

            digits(words[1:])
        case "photos10":
            from training.photos10 import main as photos10

            photos10(words[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
