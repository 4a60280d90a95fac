"""From a request to the pictures' bytes and what is asked of them.

Owns the names of form fields, content types and parameters. Decodes nothing.
"""

import contextlib
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final

from flask import Request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected

from broker.errors import ClientError
from web.errors import UnsupportedUpload, UploadTimeout

FIELDS: Final = ("image", "file", "img")
"""Form fields that mean the same: those of the pattern and of its best-known copies."""

UPLOAD_SILENCE_S: Final = 5.0
"""An upload that stands still for so long is given up."""

MAX_PICTURES: Final = 64
"""Pictures in one request: they are decoded one after the other, and each is a job."""

REFUSED_SILENCE_S: Final = 1.0
"""The same for an upload that is refused already."""

_RAW_TYPES: Final = ("image/", "application/octet-stream")

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


def pictures(request: Request) -> list[bytes]:
    """The uploaded files in the order sent, at least one.

    Raises ClientError, UnsupportedUpload or UploadTimeout.

    Reading stops at MAX_CONTENT_LENGTH with Werkzeug's RequestEntityTooLarge.
    """
    try:
        # Gunicorn sets no time-out of its own: a client that vanishes would keep its thread for ever.
        with _silence_limit(client_socket(request.environ), UPLOAD_SILENCE_S):
            return _pictures(request)
    except (ClientDisconnected, ParseException, OSError) as error:
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            raise UploadTimeout(f"Nothing came for {UPLOAD_SILENCE_S:g} s; send it again.") from None
        raise ClientError("The request's body is broken or was cut short.") from None


def client_socket(environ: Mapping[str, Any]) -> socket.socket | None:
    """The connection of a request under Gunicorn; None under a test client."""
    client = environ.get("gunicorn.socket")
    return client if isinstance(client, socket.socket) else None


def finish(environ: Mapping[str, Any], *, at_most: int) -> None:
    """Read what is left of a body whose answer is made, `at_most` bytes, so that the answer arrives.

    Where nothing comes any more the reading side is shut: Gunicorn would wait for it in the one thread
    that serves all connections, 2 s for each (30 silent uploads stopped a process for 60 s).
    """
    client = client_socket(environ)
    if client is None:
        return
    try:
        with _silence_limit(client, REFUSED_SILENCE_S):
            while at_most > 0 and (chunk := environ["wsgi.input"].read(min(at_most, 65536))):
                at_most -= len(chunk)
    except (ParseException, OSError):
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RD)


@contextlib.contextmanager
def _silence_limit(client: socket.socket | None, seconds: float) -> Iterator[None]:
    """Bound each read from the client, and only them: the answer is sent without a limit again."""
    if client is not None:
        client.settimeout(seconds)
    try:
        yield
    finally:
        if client is not None:
            client.settimeout(None)


def _pictures(request: Request) -> list[bytes]:
    kind = request.mimetype
    if kind == "multipart/form-data":
        uploads = [
            file.read()
            for name, files in request.files.lists()
            if name in FIELDS
            for file in files
            if file.filename
        ]
        if len(uploads) > MAX_PICTURES:
            raise ClientError(
                f"The form has {len(uploads)} pictures; at most {MAX_PICTURES} are taken at once."
            )
        if uploads:
            return uploads
        if any(name in request.form for name in FIELDS):
            raise ClientError(
                "The picture's field holds text, not a file: with curl, put an @ before the name."
            )
        fields = ", ".join(sorted({*request.files, *request.form})) or "none"
        raise ClientError(
            "The form has no picture: send a file in the field `image` (or `file`, `img`). "
            f"Fields found: {fields}."
        )
    if kind.startswith(_RAW_TYPES):
        return [request.get_data(cache=False)]
    if kind and request.content_length != 0:
        raise UnsupportedUpload(
            f"A body of {kind} is not taken: send multipart/form-data with a file in the field `image`, "
            "or the picture itself as the body with its type, such as Content-Type: image/jpeg."
        )
    raise ClientError("There is no picture: curl -X POST -F image=@photo.jpg http://HOST/predict")


def parameter(request: Request, name: str) -> str | None:
    """A parameter from the query or the form; None where it is missing or empty."""
    return request.args.get(name) or request.form.get(name) or None


def top(request: Request, *, default: int, top_max: int) -> int:
    """How many predictions are asked for. Raises ClientError."""
    text = parameter(request, "top")
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= top_max:
        raise ClientError(f"top={text[:20]!r} is not a whole number from 1 to {top_max}.")
    return int(text)


def wants_async(request: Request) -> bool:
    """Whether the client prefers to poll (RFC 7240)."""
    return any(
        preference.split(";")[0].strip().lower() == "respond-async"
        for header in request.headers.getlist("Prefer")
        for preference in header.split(",")
    )


def traceparent(request: Request) -> str | None:
    """The trace that this request belongs to, where the header is well-formed."""
    header = request.headers.get("traceparent", "")
    return header if _TRACEPARENT.fullmatch(header) else None
