"""`/openapi.json`, and `/docs`, which shows it in a browser, to read and to try out: Swagger UI.

Owns how long the description may be cached, and the page's policy; its frame is that of all pages. Swagger
UI's files come with flask-swagger-ui and are served like the page's own; nothing is fetched from elsewhere.
"""

import hashlib
from functools import lru_cache
from typing import Final

import msgspec
from flask import Blueprint, Response, current_app, request

from broker.errors import BrokerUnavailable
from web.jobs import JobClient
from web.openapi import document as openapi_document
from web.routes.pages import policy, shown

blueprint = Blueprint("docs", __name__)

_POLICY: Final = policy(
    **{
        # Swagger UI has images in its style sheet, and shows answers that are images.
        "img-src": "'self' data: blob:",
        # It renders the descriptions, which are ours, as markup through its own sanitiser.
        "require-trusted-types-for": None,
        "trusted-types": None,
    }
)


@blueprint.get("/docs")
def page() -> Response:
    """Swagger UI for /openapi.json."""
    response = shown("docs.html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@blueprint.get("/openapi.json")
def document() -> Response:
    """The description of the service, with the bounds of the models that are known now."""
    jobs: JobClient = current_app.extensions["jobs"]
    try:
        views = list(jobs.registry.models().values())
    except BrokerUnavailable:
        views = []  # the description is then less exact, but still correct
    top_max = max((view.card.top_max for view in views), default=None)
    body, etag = _encoded(
        request.script_root,
        top_max,
        bool(current_app.extensions["callback_hosts"]),
        jobs.api_keys is not None,
    )
    response = Response(body, mimetype="application/json")
    response.cache_control.no_cache = True
    response.set_etag(etag)
    response.make_conditional(request)
    return response


@lru_cache(maxsize=16)
def _encoded(root: str, top_max: int | None, has_webhooks: bool, has_keys: bool) -> tuple[bytes, str]:
    described = openapi_document.document(
        current_app.url_map, root=root, top_max=top_max, has_webhooks=has_webhooks, has_keys=has_keys
    )
    body = msgspec.json.encode(described) + b"\n"
    return body, hashlib.sha256(body).hexdigest()[:16]
