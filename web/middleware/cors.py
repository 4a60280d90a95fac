"""Which other sites' pages may use the service from a browser (CORS), as CORS_ORIGINS says.

Owns the headers that permit it. The app's answers get theirs from flask-cors; refusals that never reached the
app, from `headers`. Never with credentials: there are none.
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
    "Retry-After",
    request_ids.HEADER,
    responses.MODEL_FIELD,
    responses.VERSION_FIELD,
    responses.NOTICE_FIELD,
)
"""What a page may read besides the body."""

_PREFLIGHT_S: Final = 600
"""For so long a browser need not ask again."""


def register(
    app: Flask, origins: tuple[str, ...], *, more: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Let pages of these origins use every address, and of `more` one address besides; `*`: of all."""
    paths = {path: origins + extra for path, extra in (more or {}).items()} | {"/*": origins}
    resources: dict[str | re.Pattern[str], dict[str, Any]] = {
        path: {"origins": _patterns(allowed)} for path, allowed in paths.items() if allowed
    }
    if not resources:
        return
    CORS(
        app,
        resources=resources,
        methods=["GET", "HEAD", "POST", "OPTIONS"],
        expose_headers=list(_EXPOSED),
        max_age=_PREFLIGHT_S,
        send_wildcard=True,
    )


def _patterns(origins: tuple[str, ...]) -> str | list[re.Pattern[str]]:
    # As patterns: flask-cors would take an IPv6 address' brackets for one of its own.
    return "*" if "*" in origins else [re.compile(re.escape(each) + r"\Z") for each in origins]


def headers(origins: tuple[str, ...], origin: str) -> list[str]:
    """The header lines of an answer to a page of `origin`; empty where it may not read it."""
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
