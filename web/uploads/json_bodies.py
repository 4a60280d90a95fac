"""A JSON body with pictures in it, as base64, and what is asked of them.

Owns its shape, its bounds and the words of its refusal; msgspec reads it, and describes it in /openapi.json.
Opens no address and no path: a picture is what the body holds.
"""

import codecs
import re
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
import pybase64
from msgspec import UNSET, Meta, UnsetType

from broker.errors import ClientError
from pictures.decode import InvalidImage
from web.uploads.parameters import (
    CALLBACK_URL,
    MAX_PICTURES,
    MOST,
    PRIORITY,
    TIMEOUT,
    CallbackUrl,
    ModelName,
    Priority,
    Timeout,
)

MIMETYPE: Final = "application/json"

_DATA_URL: Final = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{1,100}){0,4};base64,", re.IGNORECASE)
"""What FileReader and canvas.toDataURL put before the base64 (RFC 2397)."""

_TO_STANDARD: Final = str.maketrans("-_", "+/", "\r\n\t")

_REASON_LETTERS: Final = 200
"""Of msgspec's words, which name an unknown field in full: one had 19 MB."""

_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]{1,20}[:]", re.IGNORECASE)

Base64 = Annotated[
    str,
    Meta(
        description="A picture file in base64 (RFC 4648, section 4 or 5; padding and line breaks are free). "
        "`data:image/png;base64,` may stand before it. No address is opened.",
        extra_json_schema={"format": "byte", "contentEncoding": "base64", "contentMediaType": "image/*"},
    ),
]


WholeTop = Annotated[
    float, Meta(ge=1, le=MOST, multiple_of=1, description="As in the query, which counts before this.")
]
"""To JSON Schema 3.0 is an integer, and some languages have no other numbers."""


class PredictBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One picture, or several in a list, which is answered by a list."""

    image: Base64 | Annotated[list[Base64], Meta(min_length=1, max_length=MAX_PICTURES)]
    model: (
        Annotated[ModelName, Meta(description="As in the query, which counts before this.")] | UnsetType
    ) = UNSET
    top: WholeTop | UnsetType = UNSET
    callback_url: (
        Annotated[CallbackUrl, Meta(description="As in the query, which counts before this.")] | UnsetType
    ) = UNSET
    timeout: (
        Annotated[Timeout, Meta(description="As in the query, which counts before this.")] | UnsetType
    ) = UNSET
    priority: (
        Annotated[Priority, Meta(description="As in the query, which counts before this.")] | UnsetType
    ) = UNSET


class SimilarityBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two pictures to compare."""

    image: Annotated[list[Base64], Meta(min_length=2, max_length=2)]
    model: ModelName | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class JsonUpload:
    """What a JSON body holds. A picture that is no base64 is its refusal, so that it fails alone."""

    pictures: list[bytes | ClientError]
    parameters: dict[str, str]
    is_list: bool


def read(body: bytes) -> JsonUpload:
    """Read a body. Raises ClientError where it is not of the shape."""
    try:
        wanted = msgspec.json.decode(as_utf_8(body), type=PredictBody)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, msgspec.ValidationError) else ""
        if said.endswith("at `$.top`"):  # as in the query, not in the library's words of numbers
            said = '"top" is a whole number from 1 to the model\'s `top_max` of /models, without quotes'
        if len(said) > _REASON_LETTERS:
            said = f"{said[:_REASON_LETTERS]}..."
        raise ClientError(
            f"The JSON body is not accepted ({said or 'it is not valid JSON'}): send "
            '{"image": "BASE64"}, or {"image": ["BASE64", ...]} with '
            f'{MAX_PICTURES} pictures at most; "model", "top", "timeout", "priority" and "callback_url" may '
            "be given as well."
        ) from None
    is_list = isinstance(wanted.image, list)
    texts = wanted.image if isinstance(wanted.image, list) else [wanted.image]
    parameters = {}
    if wanted.model is not UNSET:
        parameters["model"] = wanted.model
    if wanted.top is not UNSET:
        parameters["top"] = str(int(wanted.top))
    if wanted.callback_url is not UNSET:
        parameters[CALLBACK_URL] = wanted.callback_url
    if wanted.timeout is not UNSET:
        parameters[TIMEOUT] = repr(wanted.timeout)
    if wanted.priority is not UNSET:
        parameters[PRIORITY] = wanted.priority
    return JsonUpload([picture(text) for text in texts], parameters, is_list)


def as_utf_8(body: bytes) -> bytes:
    """JSON without the byte order mark that .NET and PowerShell write; it may say that this is UTF-16."""
    if body.startswith(codecs.BOM_UTF8):
        return body[len(codecs.BOM_UTF8) :]
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16").encode()
    return body


def picture(text: str) -> bytes | ClientError:
    """A picture's bytes from its base64, or why there are none."""
    prefix = _DATA_URL.match(text)
    if prefix is None and _ADDRESS.match(text):
        return InvalidImage(
            "The picture is an address, and none is opened: send the picture's bytes as base64."
        )
    data = text[prefix.end() :] if prefix else text
    try:
        return pybase64.b64decode(data, validate=True)
    except ValueError:
        pass
    # As MIME breaks its lines, as JSON Web Tokens spell it, as a careless encoder leaves it.
    data = data.translate(_TO_STANDARD).rstrip("=")
    try:
        return pybase64.b64decode(data + "=" * (-len(data) % 4), validate=True)
    except ValueError:
        return InvalidImage(
            "The picture is not base64 (RFC 4648): send its bytes in base64, not a path or a URL."
        )
