"""The static files, from memory, at an address that changes with their content.

Owns how long a browser may keep them: for good, because a changed file has another address. A script finds
its neighbours by relative imports, and so at the same address.
"""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from flask import Blueprint, Response, request, url_for

from web.errors import NotFound

blueprint = Blueprint("files", __name__)

FOLDER: Final = Path(__file__).resolve().parent.parent / "pages" / "static"

_SWAGGER_UI: Final = ("swagger-ui.css", "swagger-ui-bundle.js")
"""What /docs needs of flask-swagger-ui; its own page, which has a script within, is not used."""

_TYPES: Final = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
"""What is served, and as what: a system's own table may have scripts as something that browsers refuse."""

_DAY_S: Final = 24 * 3600
_YEAR_S: Final = 365 * _DAY_S


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mimetype: str
    digest: str


@blueprint.get("/static/<version>/<path:name>")
def file(version: str, name: str) -> Response:
    """A file of static/."""
    response = _answer(name)
    if version == _version():
        response.cache_control.public = True
        response.cache_control.max_age = _YEAR_S
        response.cache_control.immutable = True
    else:
        # This process is of another release than the page: what it has will do, but not for a year.
        response.cache_control.no_cache = True
    return response


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """The icon where browsers look for it when no page names one, as beside a JSON answer."""
    response = _answer("icon.svg")
    response.cache_control.max_age = _DAY_S
    return response


@blueprint.app_context_processor
def _addresses() -> dict[str, Callable[[str], str]]:
    return {"static": lambda name: url_for("files.file", version=_version(), name=name)}


def _answer(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise NotFound(f"There is no file {name[:60]!r}.")
    response = Response(found.content, mimetype=found.mimetype)
    response.set_etag(found.digest)
    response.make_conditional(request)
    return response


@cache
def _files() -> Mapping[str, _File]:
    """Every file by its path in static/, 70 KB in all; and Swagger UI's, 1.9 MB."""
    own = {path.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("*"))}
    paths = own | {f"swagger-ui/{name}": _swagger_ui() / name for name in _SWAGGER_UI}
    found = {}
    for name, path in paths.items():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            found[name] = _File(content, _TYPES[path.suffix], digest)
    return found


def _swagger_ui() -> Path:
    """The folder with its files. The package is found, not imported: that has routes of its own."""
    spec = importlib.util.find_spec("flask_swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("flask-swagger-ui is not installed: see web/requirements.txt")
    return Path(spec.submodule_search_locations[0]) / "dist"


@cache
def _version() -> str:
    """A name for the content of all files together: they import each other."""
    every = "".join(f"{name} {each.digest}\n" for name, each in _files().items())
    return hashlib.sha256(every.encode()).hexdigest()[:12]
