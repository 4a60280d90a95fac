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
def before_call(_: schemathesis.HookContext, case: "schemathesis.Case[Any]", **__: object) -> None:
    """Make what is sound but can't go well go well, in every phase.

    A key of its own for each request with a sound one: another picture under the same is refused. And enough
    of time where there is a sound one: 504 after a millisecond is no failure.
    """
    headers: Any = case.headers or {}  # of requests' own kind, whose names have any case
    key = headers.get(HEADER)
    if isinstance(key, str) and re.fullmatch(r"[\x21-\x7e]{1,128}", key):
        headers[HEADER] = str(uuid.uuid4())
    for given in (case.query, case.body):
        if isinstance(given, dict) and _is_short(given.get(TIMEOUT)):
            given[TIMEOUT] = 10


def _is_short(seconds: object) -> bool:
    """Whether it is a sound number of seconds, and a small one."""
    try:
        return 0.001 <= float(str(seconds)) < 10
    except ValueError:
        return False
