"""From a request to the pictures' bytes and what is asked of them.

Owns the names of form fields, content types and parameters. Decodes nothing, and waits for nobody: a body
is whole before its request gets here (worker.py).
"""

import re
from typing import Final

from flask import Request

from broker.errors import ClientError
from web.errors import UnsupportedUpload

FIELDS: Final = ("image", "file", "img")
"""Form fields that mean the same: those of the pattern and of its best-known copies."""

MAX_PICTURES: Final = 64
"""Pictures in one request: they are decoded one after the other, and each is a job."""

_RAW_TYPES: Final = ("image/", "application/octet-stream")

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


def pictures(request: Request) -> list[bytes]:
    """The uploaded files in the order sent, at least one.

    Raises ClientError or UnsupportedUpload.

    Reading stops at MAX_CONTENT_LENGTH with Werkzeug's RequestEntityTooLarge.
    """
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
            f"Fields found: {fields[:200]}."
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
