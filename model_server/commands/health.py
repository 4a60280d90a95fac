"""`python -m model_server health`: exit with 0 if the model server on this machine is healthy, else say why.

Owns the command line. serving/health_file.py owns what it reads.
"""

import argparse
import time
from collections.abc import Sequence

from model_server.commands.terminal import DONE, REFUSED, complain
from model_server.serving import health_file


def main(arguments: Sequence[str] = ()) -> int:
    """Return the exit status: 0 while every model that is served holds its lease, 1 otherwise."""
    argparse.ArgumentParser(
        prog="python -m model_server health",
        description="Exit with 0 if the model server on this machine serves and holds its leases, else 1.",
    ).parse_args(arguments)
    reason = health_file.verdict(time.time())
    return complain(reason, REFUSED) if reason else DONE
