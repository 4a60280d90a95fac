"""What the commands share at a terminal: output, complaints, exit statuses and three kinds of numbers.

Owns their form. Knows no command.
"""

import sys
from typing import Final

DONE: Final = 0
REFUSED: Final = 1
"""The command ran, and refused something."""
IMPOSSIBLE: Final = 2
"""Nothing could be tried; argparse exits with the same status for an invalid command line."""


def print_line(text: str) -> None:
    """Print a line and flush it, also into a pipe: a reader may act on it while the command continues."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str, status: int) -> int:
    """Print a line on stderr; return `status`, to exit with."""
    sys.stderr.write(f"{text}\n")
    return status


def count(text: str) -> int:
    """Parse a whole number from 1, for argparse. Raises ValueError."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def share(text: str) -> float:
    """Parse a number from 0 to 1, for argparse. Raises ValueError."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def minutes(text: str) -> float:
    """Parse a time from 0 minutes to a day, for argparse. Raises ValueError."""
    if not 0 <= float(text) <= 1440:
        raise ValueError
    return float(text)
