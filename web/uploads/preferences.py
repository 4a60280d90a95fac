"""What a request's header section asks of its answer: polled or waited for, drawn or JSON.

Owns the reading of Prefer and Accept. Knows no form field: reader.py reads the body.
"""

import re
from dataclasses import dataclass
from typing import Final

from flask import Request

from broker.errors import ClientError
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


def read(request: Request, upload: Upload) -> Preferences:
    """Read the preferences of a request. Raises ClientError where they can't all be had."""
    prefers_async, wait_s = _preferred(request) if "Prefer" in request.headers else (False, None)
    polled = prefers_async or CALLBACK_URL in upload.parameters
    accepted = request.accept_mimetypes
    # JSON comes first: it is the answer of a client that takes either.
    drawn = accepted.best_match(["application/json", PNG], default="application/json") == PNG
    if drawn:
        # Firefox 128 to 131 names image/png for every page that it asks for, the answer of a form included.
        page = max((quality for kind, quality in accepted if kind.lower() == "text/html"), default=0)
        drawn = not page or page < accepted.quality(PNG)
    if drawn and upload.is_list:
        raise ClientError(
            f"An answer of {PNG} shows one picture; {len(upload.pictures)} came in a list. Send them one by "
            "one, or take application/json."
        )
    if drawn and polled:
        asked = "Prefer: respond-async" if prefers_async else CALLBACK_URL
        raise ClientError(f"A drawn answer can't be polled: leave out {asked}, or Accept: {PNG}.")
    return Preferences(polled, prefers_async, wait_s or 0, drawn)


def applied(*, polled: bool = False, wait_s: int = 0) -> str:
    """What Preference-Applied says."""
    return ", ".join(["respond-async"] * polled + [f"wait={wait_s}"] * bool(wait_s))


def wait(request: Request) -> int | None:
    """The seconds of `Prefer: wait=N`; None where the header has none that can be read."""
    return _preferred(request)[1]


def _preferred(request: Request) -> tuple[bool, int | None]:
    """Whether Prefer says respond-async, and the seconds of its `wait`, where it has some that can be read.

    Of several values with one name the first counts (RFC 7240, section 2).
    """
    preferences: dict[str, str] = {}
    for header in request.headers.getlist("Prefer"):
        for preference in header.split(","):
            name, _, value = preference.split(";")[0].partition("=")
            preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    seconds = preferences.get("wait", "")
    return "respond-async" in preferences, int(seconds) if _SECONDS.fullmatch(seconds) else None
