"""What Schemathesis sends where the description says `a picture`: real ones, in each format.

That a body of image/png is a PNG can't be said in JSON Schema; that random bytes are refused is tested in
tests/web/test_fuzz.py.
"""

import base64
import io
import re
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

from pictures.decode import FORMATS
from web.idempotency import HEADER
from web.openapi.operations import RAW_TYPES
from web.uploads.parameters import TIMEOUT


def _pictures(formats: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    made = []
    for kind in formats:
        for size, shade in (((1, 1), 0), ((9, 7), 200)):
            buffer = io.BytesIO()
            Image.new("L", size, shade).save(buffer, kind)
            made.append(buffer.getvalue())
    return st.sampled_from(made)


_ANY = _pictures(FORMATS)

for _type in RAW_TYPES:
    _format = _type.removeprefix("image/").upper()
    schemathesis.openapi.media_type(_type, _pictures((_format,)) if _format in FORMATS else _ANY)
schemathesis.openapi.format("binary", _ANY)
schemathesis.openapi.format("byte", _ANY.map(lambda picture: base64.b64encode(picture).decode()))


@schemathesis.hook
def map_query(_: schemathesis.HookContext, query: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give each request with a sound time enough of it: 504 after a millisecond is no failure."""
    return _patient(query)


@schemathesis.hook
def map_body(_: schemathesis.HookContext, body: object) -> object:
    """The same in JSON."""
    return _patient(body) if isinstance(body, dict) else body


def _patient(given: dict[str, Any] | None) -> dict[str, Any] | None:
    seconds = (given or {}).get(TIMEOUT)
    if given is None or not isinstance(seconds, int | float) or not 0.001 <= seconds < 10:
        return given
    return {**given, TIMEOUT: 10}


@schemathesis.hook
def map_headers(_: schemathesis.HookContext, headers: dict[str, str] | None) -> dict[str, str] | None:
    """Give each request with a sound key one of its own: another picture under the same is refused."""
    key = (headers or {}).get(HEADER)
    if headers is None or not isinstance(key, str) or not re.fullmatch(r"[\x21-\x7e]{1,128}", key):
        return headers
    return {**headers, HEADER: str(uuid.uuid4())}
