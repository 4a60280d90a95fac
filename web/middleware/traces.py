"""The span of each request, where tracing is on: OpenTelemetry's conventions for servers of HTTP.

Owns when it begins and ends, and what of the request it tells: no query, and of the header the trace alone
that it belongs to. Requests that the loop refuses (web/server) have none; health checks neither.
"""

from typing import Final
from urllib.parse import quote

from flask import Flask, Response, g, request

from telemetry import tracing
from telemetry.tracing import NOT_RECORDED, Kind, Span
from web.middleware import request_ids

_WITHOUT: Final = frozenset(("/healthz", "/livez", "/readyz", "/metrics", "/scaling", "/favicon.ico"))
_STATIC: Final = "/static/"
"""They would be most of all traces, and tell nothing."""

_PATH_MOST: Final = 200
_SERVER_ERROR: Final = 500


def register(app: Flask) -> None:
    """Trace the requests of `app`. Register it before what answers a request early."""

    @app.before_request
    def begin() -> None:
        if request.path in _WITHOUT or request.path.startswith(_STATIC):
            return
        tracing.CURRENT.set(
            tracing.begin(
                request.method,
                request.headers.get("traceparent"),
                {
                    "http.request.method": request.method,
                    "url.path": quote(request.path)[:_PATH_MOST],
                    "url.scheme": request.scheme,
                    "client.address": request.remote_addr or "",
                    "network.protocol.version": request.environ.get("SERVER_PROTOCOL", "")[5:],
                    "batchwire.request_id": request_ids.CURRENT.get(),
                },
                tracestate=request.headers.get("tracestate", ""),
                kind=Kind.SERVER,
            )
        )

    @app.after_request
    def tell(response: Response) -> Response:
        span = tracing.CURRENT.get()
        if span.is_recorded:
            _tell(span, response)
            if not response.is_sequence:  # a stream is answered when it ends
                response.call_on_close(span.end)
                tracing.CURRENT.set(NOT_RECORDED)
        return response

    @app.teardown_request
    def end(_: BaseException | None) -> None:
        tracing.CURRENT.get().end()
        tracing.CURRENT.set(NOT_RECORDED)  # the thread goes on to another request


def _tell(span: Span, response: Response) -> None:
    span.set({"http.response.status_code": response.status_code, "batchwire.dialect": g.dialect})
    if request.url_rule is not None:
        span.rename(f"{request.method} {request.url_rule.rule}")
        span.set({"http.route": request.url_rule.rule})
    if response.status_code >= _SERVER_ERROR:
        span.fail(str(response.status_code))
