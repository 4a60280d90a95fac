"""The span of each call, where tracing is on: OpenTelemetry's conventions for servers of gRPC.

Owns when it begins and ends, and what it tells of a call. Only an interceptor knows a method's whole name, so
it is one. Streams and health checks have no span.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from grpc_health.v1 import health

from telemetry import tracing
from telemetry.tracing import NOT_RECORDED, Kind

_WITHOUT: Final = f"/{health.SERVICE_NAME}/"

_SERVER_ERRORS: Final = frozenset(
    (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
"""The server's fault, as the conventions have it."""

_Handler = Callable[[Iterator[bytes], Any], bytes]


class CallSpans(grpc.ServerInterceptor):  # type: ignore[misc] # gRPC has no types
    """Begins a span before a method of one answer, and ends it after."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:  # noqa: ANN401 - gRPC's
        """See grpc.ServerInterceptor."""
        handler = continuation(details)
        if handler is None or handler.response_streaming or details.method.startswith(_WITHOUT):
            return handler
        traced = _traced(handler.stream_unary, details.method.removeprefix("/"))
        return grpc.stream_unary_rpc_method_handler(traced)


def _traced(handle: _Handler, method: str) -> _Handler:
    service, _, name = method.rpartition("/")

    def call(messages: Iterator[bytes], context: Any) -> bytes:  # noqa: ANN401 - gRPC has no types
        metadata = {name: text for name, text in context.invocation_metadata() if isinstance(text, str)}
        span = tracing.begin(
            method,
            metadata.get("traceparent"),
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            tracestate=metadata.get("tracestate", ""),
            kind=Kind.SERVER,
        )
        tracing.CURRENT.set(span)
        try:
            return handle(messages, context)
        finally:
            code = context.code() or grpc.StatusCode.OK
            span.set({"rpc.grpc.status_code": code.value[0]})
            if code in _SERVER_ERRORS:
                span.fail(code.name)
            span.end()
            tracing.CURRENT.set(NOT_RECORDED)

    return call
