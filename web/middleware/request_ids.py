"""An id for each request: the client's own X-Request-ID if it is well formed, else a fresh one.

Owns which ids are accepted, and where they appear: in the answer, and in every line that the request's thread
logs. The job carries the id as well (jobs.py), so that a model server can name it.
"""

import logging
import re
import uuid
from contextvars import ContextVar
from typing import Final
from urllib.parse import quote

from flask import Flask, Response, request

from telemetry import logs, tracing

HEADER: Final = "X-Request-ID"

NONE: Final = logs.NONE

LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s[%(process)d] %(request_id)s %(message)s"

_LOG: Final = logging.getLogger(__name__)

_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
"""Matches UUIDs, ULIDs and the ids of proxies; nothing that could forge a log line or a header field."""

_PATH_MOST: Final = 200
"""Characters of a path in the log."""

_CURRENT: Final[ContextVar[str]] = ContextVar("request_id", default=NONE)


def chosen(client_id: str) -> str:
    """The id of a request whose client sent `client_id`, which may be empty."""
    return client_id if _SANE.fullmatch(client_id) else str(uuid.uuid4())


def current() -> str:
    """The id of the request that this thread answers."""
    return _CURRENT.get()


def carry(request_id: str) -> None:
    """Have this thread log for a request that another began."""
    _CURRENT.set(request_id)


def register(app: Flask) -> None:
    """Give each request of `app` its id. Register this first, so that every failure has one."""

    @app.before_request
    def begin() -> None:
        _CURRENT.set(chosen(request.headers.get(HEADER, "")))

    @app.after_request
    def stamp(response: Response) -> Response:
        response.headers[HEADER] = current()
        # An overloaded service refuses by the thousand, and has no time to log each refusal.
        is_failure = response.status_code >= 500 and response.status_code != 503
        level = logging.INFO if is_failure else logging.DEBUG
        if _LOG.isEnabledFor(level):
            path = quote(request.path)[:_PATH_MOST]  # it may hold line feeds
            _LOG.log(level, "%s %s: %d", request.method, path, response.status_code)
        return response

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        _CURRENT.set(NONE)  # the thread goes on to another request


class Stamp(logging.Filter):
    """Adds the id to each record, for LOG_FORMAT."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        record.request_id = current()
        record.trace_id = tracing.trace_id(tracing.CURRENT.get().traceparent)
        return True
