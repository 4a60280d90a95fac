"""Errors as HTTP answers. The only place that knows which code has which status, of HTTP and of gRPC.

Owns the tables and the shape of an error's body. Every class of ServiceError has a row in both (a test
asserts it), so that no error can leave as a bare 500.
"""

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import msgspec
from flask import Flask, Response, request
from msgspec import UNSET, Struct, UnsetType
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Map

from broker.errors import ClientError, Overloaded, ServiceError, Unavailable
from web import access_log, metrics, question, responses
from web.access_log import Exchange
from web.middleware import cors, request_ids
from web.responses import ErrorDetail, FailedAnswer
from web.server.refusals import RenderRefusal, RequestHead

_LOG = logging.getLogger(__name__)

STATUS: Final[dict[str, int]] = {
    "bad_request": 400,
    "invalid_image": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "job_lost": 404,
    "result_expired": 404,
    "unknown_model": 404,
    "method_not_allowed": 405,
    "upload_timeout": 408,
    "too_large": 413,
    "uri_too_long": 414,
    "unsupported_format": 415,
    "idempotency_key_reused": 422,
    "rate_limited": 429,
    "too_many_jobs": 429,
    "header_too_large": 431,
    "internal": 500,
    "inference_failed": 500,
    "malformed_message": 500,
    "lease_lost": 500,
    "unavailable": 503,
    "overloaded": 503,
    "no_worker": 503,
    "model_unavailable": 503,
    "broker_unavailable": 503,
    "deadline_passed": 504,
}

RPC_STATUS: Final[dict[str, str]] = {
    "bad_request": "INVALID_ARGUMENT",
    "invalid_image": "INVALID_ARGUMENT",
    "unauthorized": "UNAUTHENTICATED",
    "forbidden": "PERMISSION_DENIED",
    "not_found": "NOT_FOUND",
    "job_lost": "NOT_FOUND",
    "result_expired": "NOT_FOUND",
    "unknown_model": "NOT_FOUND",
    "method_not_allowed": "UNIMPLEMENTED",
    "upload_timeout": "DEADLINE_EXCEEDED",
    "too_large": "RESOURCE_EXHAUSTED",
    "uri_too_long": "INVALID_ARGUMENT",
    "unsupported_format": "INVALID_ARGUMENT",
    "idempotency_key_reused": "INVALID_ARGUMENT",
    "rate_limited": "RESOURCE_EXHAUSTED",
    "too_many_jobs": "RESOURCE_EXHAUSTED",
    "header_too_large": "RESOURCE_EXHAUSTED",
    "internal": "INTERNAL",
    "inference_failed": "INTERNAL",
    "malformed_message": "INTERNAL",
    "lease_lost": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    # As Triton says of a full queue. gRPC's clients retry UNAVAILABLE, and RESOURCE_EXHAUSTED is for good.
    "overloaded": "UNAVAILABLE",
    "no_worker": "UNAVAILABLE",
    "model_unavailable": "UNAVAILABLE",
    "broker_unavailable": "UNAVAILABLE",
    "deadline_passed": "DEADLINE_EXCEEDED",
}
"""By its name: only the process of web/rpc loads gRPC."""


class NotFound(ClientError):
    """Nothing is at this address, or nothing any more."""

    code = "not_found"


class UnsupportedUpload(ClientError):
    """The body's content type is not that of an upload."""

    code = "unsupported_format"


class Unauthorized(ClientError):
    """The request has no API key, or none that is known."""

    code = "unauthorized"

    def __init__(self, message: str, *, asks_browser: bool = False) -> None:
        super().__init__(message)
        self.asks_browser = asks_browser
        """A browser is to ask its user for the key."""


class Forbidden(ClientError):
    """The API key may not do this."""

    code = "forbidden"


class RateLimited(Overloaded):
    """The API key has sent as many pictures as it may for now."""

    code = "rate_limited"
    fields: tuple[tuple[str, str], ...] = ()
    """Header fields of its answer."""


class TooManyJobs(Overloaded):
    """As many jobs of the API key as it may have have not ended."""

    code = "too_many_jobs"
    fields: tuple[tuple[str, str], ...] = ()
    """Header fields of its answer."""


FailureShape = Callable[[str, int], Struct]
"""The body of a failure from its message and its status, at an address that has a shape of its own."""
ShapeOf = Callable[[str, str], FailureShape | None]
"""The shape of failures at an address, by method and path."""
UnknownAddress = Callable[[str, str], ServiceError | None]
"""The refusal of an address that no route has, by method and path; None: the usual one."""
KeyNameOf = Callable[[RequestHead], str]
"""The name of a request's API key; empty where it has none that is known."""

# Our codes for the statuses that Flask and Werkzeug answer themselves.
_HTTP_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_format",
}


def body(code: str, message: str, request_id: str | UnsetType = UNSET) -> FailedAnswer:
    """The JSON of an error."""
    return FailedAnswer(success=False, error=ErrorDetail(code, message), request_id=request_id)


def raw(
    error: ServiceError,
    *headers: str,
    request_id: str,
    with_body: bool = True,
    idle_s: int = 0,
    shape: FailureShape | None = None,
) -> bytes:
    """The same answer as bytes, for a request that never reached the app."""
    status = HTTPStatus(STATUS[error.code])
    failure = shape(error.message, status) if shape else body(error.code, error.message, request_id)
    content = msgspec.json.encode(failure) + b"\n"
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        f"Cache-Control: {responses.NO_STORE}",
        "X-Content-Type-Options: nosniff",
        f"{request_ids.HEADER}: {request_id}",
        *([f"Connection: keep-alive\r\nKeep-Alive: timeout={idle_s}"] if idle_s else ["Connection: close"]),
        *headers,
    ]
    head += [f"{name}: {value}" for name, value in fields_of(error)]
    return "\r\n".join([*head, "", ""]).encode("ascii") + (content if with_body else b"")


def fields_of(error: ServiceError) -> list[tuple[str, str]]:
    """The header fields that an error's answer has besides."""
    fields: list[tuple[str, str]] = []
    if isinstance(error, Unavailable):
        fields.append(("Retry-After", str(error.retry_after_s)))
    if isinstance(error, RateLimited | TooManyJobs):
        fields += error.fields
    if isinstance(error, Unauthorized):
        fields.append(("WWW-Authenticate", 'Bearer realm="Batchwire"'))
        if error.asks_browser:
            fields.append(("WWW-Authenticate", 'Basic realm="Batchwire: the API key is the password"'))
    return fields


def refusal_renderer(
    origins: tuple[str, ...],
    *,
    more: Mapping[str, tuple[str, ...]] | None = None,
    shape_of: ShapeOf = lambda _method, _path: None,
    key_name_of: KeyNameOf = lambda _head: "",
) -> RenderRefusal:
    """The function that renders web.server's refusals: as `raw` does, with CORS headers.

    `more` (as in cors.register) and `shape_of` are for single addresses; `key_name_of` is for the access log.
    """

    def render(error: ServiceError, head: RequestHead) -> tuple[bytes, str]:
        metrics.refused_unread(error.code)
        request_id = request_ids.chosen(head.request_id)
        fields = cors.headers(cors.allowed(origins, head.path, more), head.origin)
        shape = shape_of(head.method, head.path)
        answer = raw(
            error,
            *fields,
            request_id=request_id,
            with_body=not head.is_head,
            idle_s=head.idle_s,
            shape=shape,
        )
        if access_log.is_on():
            sent = len(answer) - answer.index(b"\r\n\r\n") - 4
            _write(error, head, sent, request_id, key_name_of(head))
        return answer, request_id

    return render


def _write(error: ServiceError, head: RequestHead, sent: int, request_id: str, key_name: str) -> None:
    """The line of a request that never reached the app."""
    (model,) = parse_qs(head.query).get("model", [""])[:1]
    exchange = Exchange(
        access_log.path(head.method or "?", head.path, model),
        STATUS[error.code],
        bytes_in=head.bytes_in,
        bytes_out=sent,
        seconds=head.seconds,
        request_id=request_id,
        client=head.client,
        key=key_name,
    )
    access_log.answered(exchange, question.NOTHING)


def _addresses(routes: Map) -> list[str]:
    """What a client may ask for, with the methods that Flask does not add.

    Without the pages' own files, and without the addresses of protocols, which their clients know.
    """
    methods: dict[str, set[str]] = {}
    for rule in routes.iter_rules():
        if not rule.endpoint.startswith("files.") and not f"{rule.rule}/".startswith(("/v1/", "/v2/")):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)  # as /openapi.json has it
            methods.setdefault(path, set()).update((rule.methods or set()) - {"HEAD", "OPTIONS"})
    return [f"{' and '.join(sorted(methods[path]))} {path}" for path in sorted(methods)]


def register(
    app: Flask,
    *,
    shape_of: ShapeOf = lambda _method, _path: None,
    unknown_address: UnknownAddress = lambda _method, _path: None,
) -> None:
    """Give every error of `app` this shape, or that of its address."""

    def respond(code: str, message: str, status: int) -> Response:
        shape = shape_of(request.method, request.path)
        failure = shape(message, status) if shape else body(code, message, request_ids.CURRENT.get())
        return responses.respond(failure, status)

    @app.errorhandler(ServiceError)
    def service_error(error: ServiceError) -> Response:
        response = respond(error.code, error.message, STATUS[error.code])
        response.headers.extend(fields_of(error))
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = _HTTP_CODES.get(status, "bad_request" if status < 500 else "internal")
        message = error.description or error.name
        if isinstance(error, MethodNotAllowed):
            methods = ", ".join(sorted(error.valid_methods or ()))
            message = f"This address does not accept {request.method}. Accepted methods: {methods}."
        if status == 404:
            if (refusal := unknown_address(request.method, request.path)) is not None:
                return service_error(refusal)
            message = f"Nothing is at this address. Available: {', '.join(_addresses(app.url_map))}."
        if status == 413:
            limit_mb = app.config["MAX_CONTENT_LENGTH"] / (1024 * 1024)
            message = f"The request is larger than {limit_mb:g} MB."
        response = respond(code, message, status)
        response.headers.extend(
            (name, value) for name, value in error.get_headers() if name.lower() in ("allow", "retry-after")
        )
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        _LOG.error("unexpected error; this is a bug", exc_info=error)
        return service_error(ServiceError("The service failed on this request; its log says why."))
