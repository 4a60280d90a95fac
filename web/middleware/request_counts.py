"""Every request that the app answers is counted and timed, for Prometheus.

Owns when a request begins and ends, and the names of its labels' values. web/metrics.py has the metrics.
"""

import time
from contextvars import ContextVar
from typing import Final

from flask import Flask, Response, request

from web import metrics

_DIALECTS: Final = frozenset(("open_inference", "tf_serving", "torchserve", "tutorials"))
"""Blueprints of web/dialects; an address of another is the service's own."""

_BEGAN: Final[ContextVar[float]] = ContextVar("request_began")


def register(app: Flask) -> None:
    """Count the requests of `app`."""

    @app.before_request
    def begin() -> None:
        _BEGAN.set(time.perf_counter())
        metrics.asked("")

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        seconds = time.perf_counter() - _BEGAN.get()
        metrics.answered(route, dialect(), code=response.status_code, seconds=seconds)
        return response


def dialect() -> str:
    """Whose interface this thread's request speaks."""
    return request.blueprint if request.blueprint in _DIALECTS else "batchwire"
