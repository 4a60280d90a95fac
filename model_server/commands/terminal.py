"""What the commands share at a terminal: lines of output, complaints, exit statuses and two kinds of numbers.

Owns their form. Knows no command.
"""

import sys
from typing import Final

DONE: Final = 0
REFUSED: Final = 1
"""The command ran and the answer is no."""
IMPOSSIBLE: Final = 2
"""Nothing could be tried; argparse has the same for a command line that it can't read."""


def print_line(text: str) -> None:
    """Print a line at once, also into a pipe: whoever reads it may act on it while the command goes on."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str, status: int) -> int:
    """Print a line on stderr; return the exit status that goes with it."""
    sys.stderr.write(f"{text}\n")
    return status


def count(text: str) -> int:
    """A whole number from 1, for argparse. Raises ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1, for argparse. Raises ValueError."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)
