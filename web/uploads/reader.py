"""From a request to the pictures' bytes and what is asked of them.

Owns the names of form fields and content types. Decodes no picture, and waits for nobody: a body is whole
before its request gets here (worker.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from flask import Request
from numpy.typing import NDArray

from broker.errors import ClientError
from broker.messages import Card
from web.errors import UnsupportedUpload
from web.uploads import content_coding, forms, json_bodies
from web.uploads.forms import Form
from web.uploads.parameters import MAX_PICTURES, Top

FIELDS: Final = ("image", "file", "img")
"""Form fields that mean the same: those of the pattern and of its best-known copies."""

_RAW_TYPES: Final = ("image/", "application/octet-stream")

_DEFAULT_TYPE: Final = "application/x-www-form-urlencoded"
"""What curl --data-binary, urllib and Java's HttpURLConnection call any body that they are not told of."""

NO_PICTURE: Final = "There is no picture: curl -X POST -F image=@photo.jpg http://HOST/predict"

Picture = bytes | NDArray[np.uint8] | ClientError
"""The bytes of a file; pixels that the client has fitted to the model itself, as some of web/dialects send;
or why there are none, where the others of the request are sound."""


@dataclass(frozen=True, slots=True)
class Upload:
    """What one request holds."""

    pictures: list[Picture]
    """In the order sent; at least one."""
    parameters: dict[str, str]
    """From the query, else from the body; none is empty."""
    tops: list[str]
    """Each `top` that was given, that of the query first: one that can't be is no better for another."""
    is_list: bool = False
    """The answer is a list, of whatever length."""
    field: str = ""
    """The form's field that the first picture came in; empty if it came in no form."""


def read(request: Request, *, fields: tuple[str, ...] = FIELDS) -> Upload:
    """Read a request's body and parameters; the files of a form in any of these fields are pictures.

    Raises ClientError, UnsupportedUpload, or UploadTooLarge; above MAX_CONTENT_LENGTH Werkzeug's
    RequestEntityTooLarge.
    """
    kind = request.mimetype
    parameters: dict[str, str] = {}
    is_list, field = False, ""
    pictures: list[Picture]
    if kind == "multipart/form-data":
        boundary = request.mimetype_params.get("boundary")
        if not boundary:
            raise ClientError("The form's Content-Type names no boundary: let your client set this header.")
        form = forms.read(body(request), boundary)
        files = [(name, data) for name, data in form.files if name in fields]
        if not 0 < len(files) <= MAX_PICTURES:
            raise _miscounted(form, fields, count=len(files))
        pictures, parameters = [data for _, data in files], form.texts
        is_list, field = len(files) > 1, files[0][0]
    elif kind.startswith(_RAW_TYPES):
        pictures = [body(request)]
    elif kind == json_bodies.MIMETYPE:
        json = json_bodies.read(body(request))
        pictures, parameters, is_list = [*json.pictures], json.parameters, json.is_list
    else:
        pictures = [_untyped(request, kind)]
    sources = (request.args, parameters)
    tops = [source["top"] for source in sources if source.get("top")]
    given = {name: text for source in reversed(sources) for name, text in source.items() if text}
    return Upload(pictures, given, tops, is_list, field)


def body(request: Request) -> bytes:
    """The body's bytes, inflated where the client has compressed them.

    Raises ClientError, UnsupportedUpload or UploadTooLarge.
    """
    data = request.get_data(cache=False)
    if not (codings := request.headers.get("Content-Encoding", "")):
        return data
    return content_coding.decoded(data, codings, at_most=request.max_content_length or len(data))


def _untyped(request: Request, kind: str) -> bytes:
    """A body that may be a picture though nothing says so (RFC 9110, section 8.3).

    Raises ClientError where there is none, UnsupportedUpload for other types.
    """
    if request.content_length == 0:
        raise ClientError(NO_PICTURE)
    if not kind or kind == _DEFAULT_TYPE:
        data = body(request)
        if not data:
            raise ClientError(NO_PICTURE)
        if not kind or b"\0" in data[: forms.BINARY_LOOK]:  # no form without a file has one
            return data
    raise UnsupportedUpload(
        f"A body of {kind[:60]} is not supported: send multipart/form-data with a file in the field `image`, "
        "the picture itself as the body with its type (Content-Type: image/jpeg), or "
        'application/json: {"image": "BASE64"}.'
    )


def _miscounted(form: Form, fields: tuple[str, ...], *, count: int) -> ClientError:
    """The refusal of a form that has so many pictures: too many, or none."""
    if count:
        return ClientError(f"The form has {count} pictures; at most {MAX_PICTURES} are accepted at once.")
    if any(name in form.texts for name in fields):
        return ClientError("The picture's field holds text, not a file: with curl, put an @ before the name.")
    names = {*form.texts, *(name for name, _ in form.files)}
    others = ", ".join(f"`{name}`" for name in fields if name != "image")
    found = ", ".join(sorted(filter(None, names))) or "none"
    return ClientError(
        f"The form has no picture: send a file in the field `image` (or {others}). "
        f"Fields found: {found[:200]}."
    )


def top(tops: Sequence[str], card: Card, *, asked: Card) -> int:
    """How many predictions an upload's `tops` ask for: of `asked` at most what it has, of `card` what it has.

    They differ where a fallback answers. Raises ClientError.
    """
    if asked.steps:
        raise ClientError(f"{asked.model} is a pipeline: the steps in its model.toml say their own top.")
    number, *_ = [_number(text, asked.top_max) for text in tops]
    return min(number, card.top_max)


def _number(text: str, top_max: int) -> int:
    try:
        number = msgspec.convert(text, Top, strict=False)
    except msgspec.ValidationError:
        number = 0
    if not 1 <= number <= top_max:
        raise ClientError(f"top={text[:20]!r} is not a whole number from 1 to {top_max}.")
    return number
