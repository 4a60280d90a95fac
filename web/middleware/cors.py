"""CORS: which other sites' pages may use the service from a browser, as CORS_ORIGINS says.

Owns the headers that permit it. flask-cors adds them to the app's answers, `headers` gives them to refusals
that never reached the app. Credentials are never allowed: there are none.
"""

import re
from typing import Final

from flask import Flask
from flask_cors import CORS

from web import responses
from web.middleware import request_ids

_EXPOSED: Final = (
    "Location",
    "Preference-Applied",
    "Retry-After",
    request_ids.HEADER,
    responses.MODEL_FIELD,
    responses.VERSION_FIELD,
    responses.NOTICE_FIELD,
)
"""The headers that a page may read."""

_PREFLIGHT_S: Final = 600
"""How long a browser may cache a preflight's answer."""


def register(app: Flask, origins: tuple[str, ...]) -> None:
    """Let pages of these origins use every address; `*` allows all origins."""
    if not origins:
        return
    # Compiled: flask-cors would read the brackets of an IPv6 address as a pattern.
    patterns = "*" if origins == ("*",) else [re.compile(re.escape(origin) + r"\Z") for origin in origins]
    CORS(
        app,
        origins=patterns,
        methods=["GET", "HEAD", "POST", "OPTIONS"],
        expose_headers=list(_EXPOSED),
        max_age=_PREFLIGHT_S,
        send_wildcard=True,
    )


def headers(origins: tuple[str, ...], origin: str) -> list[str]:
    """The header lines of an answer to a page of `origin`; empty if the page may not read the answer."""
    if origins == ("*",):
        allowed = "*"
    elif origin in origins:
        allowed = origin
    else:
        return []
    lines = [
        f"Access-Control-Allow-Origin: {allowed}",
        f"Access-Control-Expose-Headers: {', '.join(_EXPOSED)}",
    ]
    return lines + (["Vary: Origin"] if allowed != "*" else [])
