"""`python -m model_server health`: exit with 0 if this machine's model servers are healthy, else say why.

Owns the command line. serving/health_file.py owns what it reads.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from model_server.commands.terminal import DONE, REFUSED, complain
from model_server.serving import health_file


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 while every model that is served holds its lease, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m model_server health",
        description="Exit with 0 if the model servers on this machine serve and hold their leases, else 1.",
    )
    # Not a setting: to read those takes half as long again as all the rest.
    parser.add_argument("--dir", type=Path, default=health_file.FOLDER, help="the model servers' HEALTH_DIR")
    folder = parser.parse_args(arguments).dir
    reason = health_file.verdict(folder, time.time())
    return complain(reason, REFUSED) if reason else DONE
