"""What a request's header section asks of its answer: polled or waited for, drawn or JSON, of which trace.

Owns the reading of Prefer, Accept and traceparent. Knows no form field: reader.py reads the body.
"""

import re
from dataclasses import dataclass
from typing import Final

from flask import Request

from broker.errors import ClientError
from web.responses import PNG
from web.uploads.reader import Upload

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


@dataclass(frozen=True, slots=True)
class Preferences:
    """How a client wants its answer."""

    polled: bool
    """It does not wait: it gets an address to poll (RFC 7240)."""
    drawn: bool
    """It would rather have the picture, annotated, than JSON (RFC 9110, section 12.5.1)."""
    traceparent: str | None
    """The trace that the request belongs to, where the header is well-formed."""


def read(request: Request, upload: Upload) -> Preferences:
    """Read the preferences of a request. Raises ClientError where they can't all be had."""
    header = request.headers.get("traceparent", "")
    traceparent = header if _TRACEPARENT.fullmatch(header) else None
    polled = any(
        preference.split(";")[0].strip().lower() == "respond-async"
        for header in request.headers.getlist("Prefer")
        for preference in header.split(",")
    )
    accepted = request.accept_mimetypes
    # JSON comes first: it is the answer of a client that takes either.
    if accepted.best_match(["application/json", PNG], default="application/json") != PNG:
        return Preferences(polled, drawn=False, traceparent=traceparent)
    # Firefox 128 to 131 names image/png for every page that it asks for, the answer of a form included.
    page = max((quality for kind, quality in accepted if kind.lower() == "text/html"), default=0)
    if page and page >= accepted.quality(PNG):
        return Preferences(polled, drawn=False, traceparent=traceparent)
    if upload.is_list:
        raise ClientError(
            f"An answer of {PNG} shows one picture; {len(upload.pictures)} came in a list. Send them one by "
            "one, or take application/json."
        )
    if polled:
        raise ClientError(
            f"A drawn answer can't be polled: leave out Prefer: respond-async, or Accept: {PNG}."
        )
    return Preferences(polled, drawn=True, traceparent=traceparent)
