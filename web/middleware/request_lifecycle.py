"""What happens to every request, whatever it asks: it has an id, it is counted and timed.

Owns when a request begins and ends, whose interface it speaks, the header fields that all answers have, and
which answers depend on what the client accepts. request_ids.py has the ids, web/metrics.py the metrics. What
only some installations want is in the other modules of this package.
"""

import logging
import time
from contextvars import ContextVar
from typing import Final
from urllib.parse import quote

from flask import Flask, Response, g, request

from web import metrics, question
from web.middleware import request_ids
from web.responses import NO_STORE

BEGAN: Final[ContextVar[float]] = ContextVar("request_began")
"""When this thread's request began, by time.perf_counter."""

_LOG: Final = logging.getLogger(__name__)

_DIALECTS: Final = frozenset(("open_inference", "tf_serving", "torchserve", "tutorials"))
"""Blueprints of web/dialects; an address of another is the service's own."""

_BY_ACCEPT: Final = frozenset(("predict.predict", "tutorials.upload"))
"""Endpoints whose answers depend on what the client accepts."""

_PATH_MOST: Final = 200
"""Characters of a path in the log."""


def register(app: Flask) -> None:
    """Do so for the requests of `app`. Register this first, so that every failure has an id."""

    @app.before_request
    def begin() -> None:
        request_ids.CURRENT.set(request_ids.chosen(request.headers.get(request_ids.HEADER, "")))
        BEGAN.set(time.perf_counter())
        question.CURRENT.set(question.NOTHING)
        # Whose interface the request speaks: for the metrics, the access log and the traces.
        g.dialect = request.blueprint if request.blueprint in _DIALECTS else "batchwire"

    @app.after_request  # the first to be registered is the last to run
    def end(response: Response) -> Response:
        headers, status = response.headers, response.status_code
        headers[request_ids.HEADER] = request_ids.CURRENT.get()
        headers["X-Content-Type-Options"] = "nosniff"
        headers.setdefault("Cache-Control", NO_STORE)
        if request.endpoint in _BY_ACCEPT:
            response.vary.add("Accept")
        if response.is_sequence and not response.calculate_content_length():
            del headers["Content-Type"]  # there is nothing to be of a type: OPTIONS
        route = request.url_rule.rule if request.url_rule else "none"
        metrics.REQUESTS.labels(route, g.dialect, question.CURRENT.get().model, status).inc()
        metrics.DURATION.labels(route, g.dialect).observe(time.perf_counter() - BEGAN.get())
        # An overloaded service refuses by the thousand, and has no time to log each refusal.
        level = logging.INFO if status >= 500 and status != 503 else logging.DEBUG
        if _LOG.isEnabledFor(level):
            path = quote(request.path)[:_PATH_MOST]  # it may hold line feeds
            _LOG.log(level, "%s %s: %d", request.method, path, status)
        request_ids.CURRENT.set(request_ids.NONE)  # the thread goes on to another request
        return response
