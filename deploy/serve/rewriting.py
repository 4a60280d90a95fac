"""A program of `make serve`: its Redis rewrites its append-only file, so that no upload outlives its use.

Owns when: each minute, and at the end, after the model servers have given back what they had and before Redis
ends. The file would otherwise keep every prepared picture until it has grown to 64 MB.
"""

import logging
import signal
import sys
from typing import Final

from broker.append_only_file import rewrite
from broker.connection import connect
from broker.errors import BrokerUnavailable
from settings import Settings
from telemetry import logs

_LOG = logging.getLogger(__name__)

REWRITE_S: Final = 60.0
"""Between two rewrites. One costs a millisecond of a core where little waits, and 0.8 s where 250 MB do."""

WITHIN_S: Final = 30.0
END_S: Final = 20.0
"""For the last one. Supervisor waits a little longer before it ends Redis."""

_STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT})


def main() -> int:
    """Rewrite until SIGTERM, and once more; return the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    settings = Settings.from_env().require_redis()
    logs.set_up(settings.log_level, settings.log_format, "%(asctime)s %(levelname)s %(message)s")
    client = connect(settings.redis_url, timeout_s=5)
    was_done = True
    while signal.sigtimedwait(_STOP, REWRITE_S) is None:
        try:
            rewrite(client, within_s=WITHIN_S)
        except BrokerUnavailable as error:
            if was_done:
                _LOG.warning("%s Until it is, answered pictures stay in it. Trying again each minute.", error)
            was_done = False
        else:
            was_done = True
    try:
        rewrite(client, within_s=END_S)
    except BrokerUnavailable as error:
        _LOG.warning("%s The pictures of the last minute stay in it until the next start.", error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
