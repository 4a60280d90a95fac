"""From a request to the pictures' bytes and what is asked of them.

Owns the names of form fields, content types and parameters. Decodes nothing, and waits for nobody: a body
is whole before its request gets here (worker.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from flask import Request

from broker.errors import ClientError
from web import forms
from web.errors import UnsupportedUpload
from web.forms import Form

FIELDS: Final = ("image", "file", "img")
"""Form fields that mean the same: those of the pattern and of its best-known copies."""

MAX_PICTURES: Final = 64
"""Pictures in one request: they are decoded one after the other, and each is a job."""

PNG: Final = "image/png"
"""What an annotated picture is answered in."""

_RAW_TYPES: Final = ("image/", "application/octet-stream")

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


@dataclass(frozen=True, slots=True)
class Upload:
    """What one request holds."""

    pictures: list[bytes]
    """The files, in the order sent; at least one."""
    parameters: dict[str, str]
    """From the query, else from the form; none is empty."""


def read(request: Request) -> Upload:
    """Read a request's body and parameters.

    Raises ClientError, UnsupportedUpload, or UploadTooLarge; above MAX_CONTENT_LENGTH Werkzeug's
    RequestEntityTooLarge.
    """
    form = Form()
    kind = request.mimetype
    if kind == "multipart/form-data":
        boundary = request.mimetype_params.get("boundary")
        if not boundary:
            raise ClientError("The form's Content-Type names no boundary: let your client set this header.")
        form = forms.read(request.get_data(cache=False), boundary)
        pictures = _pictures(form)
    elif kind.startswith(_RAW_TYPES):
        pictures = [request.get_data(cache=False)]
    elif kind and request.content_length != 0:
        raise UnsupportedUpload(
            f"A body of {kind} is not taken: send multipart/form-data with a file in the field `image`, "
            "or the picture itself as the body with its type, such as Content-Type: image/jpeg."
        )
    else:
        raise ClientError("There is no picture: curl -X POST -F image=@photo.jpg http://HOST/predict")
    given = {**form.texts, **{name: text for name, text in request.args.items() if text}}
    return Upload(pictures, {name: text for name, text in given.items() if text})


def _pictures(form: Form) -> list[bytes]:
    pictures = [data for name, data in form.files if name in FIELDS]
    if len(pictures) > MAX_PICTURES:
        raise ClientError(f"The form has {len(pictures)} pictures; at most {MAX_PICTURES} are taken at once.")
    if pictures:
        return pictures
    if any(name in form.texts for name in FIELDS):
        raise ClientError("The picture's field holds text, not a file: with curl, put an @ before the name.")
    names = {*form.texts, *(name for name, _ in form.files)}
    fields = ", ".join(sorted(filter(None, names))) or "none"
    raise ClientError(
        "The form has no picture: send a file in the field `image` (or `file`, `img`). "
        f"Fields found: {fields[:200]}."
    )


def top(upload: Upload, *, default: int, top_max: int) -> int:
    """How many predictions are asked for. Raises ClientError."""
    text = upload.parameters.get("top")
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


def wants_drawing(request: Request, upload: Upload) -> bool:
    """Whether the client would rather have the picture, annotated, than JSON (RFC 9110, section 12.5.1).

    Raises ClientError where that can't be had.
    """
    # JSON comes first: it is the answer of a client that takes either.
    best = request.accept_mimetypes.best_match(["application/json", PNG], default="application/json")
    if best != PNG:
        return False
    if len(upload.pictures) > 1:
        raise ClientError(
            f"An answer of {PNG} shows one picture; {len(upload.pictures)} came. Send them one by one, or "
            "take application/json."
        )
    if wants_async(request):
        raise ClientError(
            f"A drawn answer can't be polled: leave out Prefer: respond-async, or Accept: {PNG}."
        )
    return True


def traceparent(request: Request) -> str | None:
    """The trace that this request belongs to, where the header is well-formed."""
    header = request.headers.get("traceparent", "")
    return header if _TRACEPARENT.fullmatch(header) else None
