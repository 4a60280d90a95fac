"""The request for a picture: address, headers and body, in Batchwire's form or another service's.

Owns the encoding of bodies, done once for each picture and model before anything is sent. Does no I/O.
"""

import base64
import json
import mimetypes
from dataclasses import dataclass
from string import Template
from urllib.parse import urlencode, urlsplit

import aiohttp

from loadtest.sending.messages import Target
from loadtest.sending.traffic import RequestChoice, Requests

PREDICT = "/predict"


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """One request, ready to be sent any number of times."""

    url: str
    headers: dict[str, str]
    body: bytes


def is_batchwire(url: str) -> bool:
    """Whether an address names a server only, so that the paths are Batchwire's."""
    parts = urlsplit(url)
    return parts.path in {"", "/"} and not parts.query


async def prepare(
    target: Target, requests: Requests, models: list[str]
) -> dict[RequestChoice, PreparedRequest]:
    """Encode every request that can be chosen. Models share the bodies that do not name them."""
    prepared = {}
    for name, picture in requests.pictures.items():
        shared = await _body(target, name, picture, "")
        for model in models:
            url = address(target, model)
            names_model = target.body not in {"multipart", "raw"} and "model" in target.body
            body, content_type = await _body(target, name, picture, model) if names_model else shared
            headers = _with({"Content-Type": content_type}, dict(target.headers))
            prepared[RequestChoice(name, model, polled=False)] = PreparedRequest(url, headers, body)
            polled = _with(headers, {"Prefer": "respond-async"})
            prepared[RequestChoice(name, model, polled=True)] = PreparedRequest(url, polled, body)
    return prepared


def address(target: Target, model: str) -> str:
    """Where a request for this model (empty: the default one) is sent."""
    if not is_batchwire(target.url):
        return target.url.replace("{model}", model)
    query = {"model": model, "top": target.top}
    asked = urlencode({name: value for name, value in query.items() if value})
    return target.url.rstrip("/") + PREDICT + (f"?{asked}" if asked else "")


def _with(headers: dict[str, str], others: dict[str, str]) -> dict[str, str]:
    """Add others, which replace those of the same name in any case: two of one name would both be sent."""
    replaced = {name.lower() for name in others}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | others


async def _body(target: Target, name: str, picture: bytes, model: str) -> tuple[bytes, str]:
    """Return the body and its content type."""
    picture_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if target.body == "raw":
        return picture, picture_type
    if target.body == "multipart":
        form = aiohttp.FormData(quote_fields=False)  # names as they are, as a browser sends them
        form.add_field(target.field, picture, filename=name, content_type=picture_type)
        payload = form()
        return await payload.as_bytes(), payload.headers["Content-Type"]
    values = {"image_base64": base64.b64encode(picture).decode(), "name": name, "model": model}
    escaped = {key: json.dumps(value, ensure_ascii=False)[1:-1] for key, value in values.items()}
    return Template(target.body).substitute(escaped).encode(), "application/json"
