"""CORS: which other sites' pages may use the service from a browser, as CORS_ORIGINS says.

Owns the headers that permit it. flask-cors adds them to the app's answers, `headers` gives them to refusals
that never reached the app. Credentials are never allowed: a page of another site sends
its own API key, and never one that the browser keeps.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from flask import Flask
from flask_cors import CORS

from web import responses
from web.middleware import request_ids

_EXPOSED: Final = (
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    request_ids.HEADER,
    responses.MODEL_FIELD,
    responses.VERSION_FIELD,
    responses.NOTICE_FIELD,
    responses.CACHE_FIELD,
)
"""The headers that a page may read."""

_PREFLIGHT_S: Final = 600
"""How long a browser may cache a preflight's answer."""


def register(
    app: Flask, origins: tuple[str, ...], *, more: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Let pages of these origins use every address; `*` allows all origins.

    `more` has origins that may use one address besides.
    """
    paths = {path: allowed(origins, path, more) for path in more or {}} | {"/*": origins}
    resources: dict[str | re.Pattern[str], dict[str, Any]] = {
        path: {"origins": _patterns(its_origins)} for path, its_origins in paths.items() if its_origins
    }
    if not resources:
        return
    CORS(
        app,
        resources=resources,
        methods=["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"],
        expose_headers=list(_EXPOSED),
        max_age=_PREFLIGHT_S,
        send_wildcard=True,
    )


def allowed(
    origins: tuple[str, ...], path: str, more: Mapping[str, tuple[str, ...]] | None
) -> tuple[str, ...]:
    """The origins that may use the address at `path`."""
    both = origins + (more or {}).get(path, ())
    return ("*",) if "*" in both else both


def _patterns(origins: tuple[str, ...]) -> str | list[re.Pattern[str]]:
    # Compiled: flask-cors would read the brackets of an IPv6 address as a pattern.
    return "*" if "*" in origins else [re.compile(re.escape(origin) + r"\Z") for origin in origins]


def headers(origins: tuple[str, ...], origin: str) -> list[str]:
    """The header lines of an answer to a page of `origin`; empty if the page may not read the answer."""
    if origins == ("*",):
        permitted = "*"
    elif origin in origins:
        permitted = origin
    else:
        return []
    lines = [
        f"Access-Control-Allow-Origin: {permitted}",
        f"Access-Control-Expose-Headers: {', '.join(_EXPOSED)}",
    ]
    return lines + (["Vary: Origin"] if permitted != "*" else [])
