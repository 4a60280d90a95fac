"""What a request's header section asks of its answer: polled or waited for, drawn or JSON, of which trace.

Owns the reading of Prefer, Accept and traceparent. Knows no form field: reader.py reads the body.
"""

import re
from dataclasses import dataclass
from typing import Final

from flask import Request

from broker.errors import ClientError
from telemetry import tracing
from web.responses import PNG
from web.uploads.parameters import CALLBACK_URL
from web.uploads.reader import Upload

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Preferences:
    """How a client wants its answer."""

    polled: bool
    """It does not wait, or not to the end: it gets an address to poll (RFC 7240)."""
    prefers_async: bool
    """Because Prefer says so; else a webhook tells it of the end."""
    wait_s: int
    """Then for so long it would rather have the answer itself; 0: not at all."""
    drawn: bool
    """It would rather have the picture, annotated, than JSON (RFC 9110, section 12.5.1)."""
    traceparent: str | None
    """The trace that the request belongs to, where the header is well-formed."""


def read(request: Request, upload: Upload) -> Preferences:
    """Read the preferences of a request. Raises ClientError where they can't all be had."""
    preferred = _preferred(request)
    prefers_async = "respond-async" in preferred
    polled = prefers_async or CALLBACK_URL in upload.parameters
    wait_s = _seconds(preferred) or 0
    accepted = request.accept_mimetypes
    # JSON comes first: it is the answer of a client that takes either.
    if accepted.best_match(["application/json", PNG], default="application/json") != PNG:
        return Preferences(polled, prefers_async, wait_s, drawn=False, traceparent=traceparent(request))
    # Firefox 128 to 131 names image/png for every page that it asks for, the answer of a form included.
    page = max((quality for kind, quality in accepted if kind.lower() == "text/html"), default=0)
    if page and page >= accepted.quality(PNG):
        return Preferences(polled, prefers_async, wait_s, drawn=False, traceparent=traceparent(request))
    if upload.is_list:
        raise ClientError(
            f"An answer of {PNG} shows one picture; {len(upload.pictures)} came in a list. Send them one by "
            "one, or take application/json."
        )
    if polled:
        asked = "Prefer: respond-async" if prefers_async else CALLBACK_URL
        raise ClientError(f"A drawn answer can't be polled: leave out {asked}, or Accept: {PNG}.")
    return Preferences(polled, prefers_async, wait_s, drawn=True, traceparent=traceparent(request))


def applied(*, polled: bool = False, wait_s: int = 0) -> str:
    """What Preference-Applied says."""
    return ", ".join(["respond-async"] * polled + [f"wait={wait_s}"] * bool(wait_s))


def wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N`; None where the header has none that can be read."""
    return _seconds(_preferred(request))


def _seconds(preferred: dict[str, str]) -> int | None:
    seconds = preferred.get("wait", "")
    return int(seconds) if _SECONDS.fullmatch(seconds) else None


def _preferred(request: Request) -> dict[str, str]:
    """The values of Prefer by name; of several with one name the first counts (RFC 7240, section 2)."""
    preferences: dict[str, str] = {}
    for header in request.headers.getlist("Prefer"):
        for preference in header.split(","):
            name, _, value = preference.split(";")[0].partition("=")
            preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    return preferences


def traceparent(request: Request) -> str | None:
    """The trace that the request belongs to, where the header is well-formed."""
    return trace(request.headers.get("traceparent", ""))


def trace(header: str) -> str | None:
    """What traceparent says, where it is well-formed."""
    return header if tracing.TRACEPARENT.fullmatch(header) else None
