"""The static files, from memory, at an address that changes with their content.

Owns how long a browser may cache them: for good, because a changed file has another address. Scripts import
each other by relative paths, and so from the same address.
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
"""The files of flask-swagger-ui that /docs needs; its own page, which has an inline script, is not used."""

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
    """Answer with a file of static/."""
    response = _answer(name)
    if version == _version():
        response.cache_control.public = True
        response.cache_control.max_age = _YEAR_S
        response.cache_control.immutable = True
    else:
        # The page is from another release: this file will do, but must not be cached.
        response.cache_control.no_cache = True
    return response


@blueprint.get("/favicon.ico")
def favicon() -> Response:
    """Answer with the icon where browsers look for it if no page names one, as beside a JSON answer."""
    response = _answer("icon.svg")
    response.cache_control.max_age = _DAY_S
    return response


@blueprint.app_context_processor
def _addresses() -> dict[str, Callable[[str], str]]:
    return {"static": lambda name: url_for("files.file", version=_version(), name=name)}


def _answer(name: str) -> Response:
    file = _files().get(name)
    if file is None:
        raise NotFound(f"Unknown file {name[:60]!r}.")
    response = Response(file.content, mimetype=file.mimetype)
    response.set_etag(file.digest)
    response.make_conditional(request)
    return response


@cache
def _files() -> Mapping[str, _File]:
    """Every file by its path in static/, 70 KB in all; and Swagger UI's, 1.9 MB."""
    own = {path.relative_to(FOLDER).as_posix(): path for path in sorted(FOLDER.rglob("*"))}
    paths = own | {f"swagger-ui/{name}": _swagger_ui() / name for name in _SWAGGER_UI}
    files = {}
    for name, path in paths.items():
        if path.suffix in _TYPES:
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:16]
            files[name] = _File(content, _TYPES[path.suffix], digest)
    return files


def _swagger_ui() -> Path:
    """The folder with Swagger UI's files. The package is not imported: it would add routes of its own."""
    spec = importlib.util.find_spec("flask_swagger_ui")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("flask-swagger-ui is not installed (web/requirements.txt lists it)")
    return Path(spec.submodule_search_locations[0]) / "dist"


@cache
def _version() -> str:
    """A hash of all files together, since they import each other."""
    digests = "".join(f"{name} {file.digest}\n" for name, file in _files().items())
    return hashlib.sha256(digests.encode()).hexdigest()[:12]
