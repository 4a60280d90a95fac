"""An id for each request: the client's own X-Request-ID if it is well formed, else a fresh one.

Owns which ids are accepted, and that every line which the request's thread logs has its id. The job carries
it as well (jobs.py), so that a model server can name it.
"""

import logging
import re
import uuid
from contextvars import ContextVar
from typing import Final

from telemetry import logs, tracing

HEADER: Final = "X-Request-ID"

NONE: Final = logs.NONE

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s[%(process)d] %(request_id)s %(message)s"

_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
"""Matches UUIDs, ULIDs and the ids of proxies; nothing that could forge a log line or a header field."""

CURRENT: Final[ContextVar[str]] = ContextVar("request_id", default=NONE)
"""The id of the request that this thread answers, or logs for."""


def chosen(client_id: str) -> str:
    """The id of a request whose client sent `client_id`, which may be empty."""
    return client_id if _SANE.fullmatch(client_id) else str(uuid.uuid4())


class Stamp(logging.Filter):
    """Adds the id to each record, for LOG_FORMAT."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        record.request_id = CURRENT.get()
        record.trace_id = tracing.trace_id(tracing.CURRENT.get().traceparent)
        return True
