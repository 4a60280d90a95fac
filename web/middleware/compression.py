"""Answers in fewer bytes, for clients that take them (Accept-Encoding).

Owns which answers and how; Flask-Compress does it. Pictures are compressed already, and what fits into one
packet would arrive no sooner.
"""

from typing import Final

from flask import Flask, Request, Response, g, request
from flask_compress import Compress

CODINGS: Final = ("br", "gzip")

LEAST_BYTES: Final = 1400
"""An answer to one picture has 500; the page, its files, /models and /openapi.json have more."""


class _Kept:
    """Compressed files, by coding and content: Swagger UI's took 27 ms each time. No name, not kept."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """See Flask-Compress."""
        return self._kept.get(key)

    def set(self, key: str, value: bytes) -> None:
        """See Flask-Compress. Files are few, and another content is another release's."""
        if not key.endswith(";"):
            self._kept[key] = value


def _name(_: Request) -> str:
    """What the answer is kept under."""
    return str(g.get("compressed_name", ""))


def register(app: Flask) -> None:
    """Compress what `app` answers."""
    app.config.update(
        COMPRESS_REGISTER=False,
        COMPRESS_ALGORITHM=list(CODINGS),
        COMPRESS_MIN_SIZE=LEAST_BYTES,
        COMPRESS_MIMETYPES=["application/json", "text/html", "text/css", "text/javascript", "text/plain"],
        COMPRESS_STREAMS=False,
        COMPRESS_CACHE_KEY=_name,
        COMPRESS_CACHE_BACKEND=_Kept,
    )
    library = Compress(app)

    @app.after_request
    def compress(response: Response) -> Response:
        if (response.content_length or 0) < LEAST_BYTES:
            return response  # to all alike: looking closer took 10 microseconds of each answer to a picture
        # The library takes `gzip;q=0` for a yes.
        if any(request.accept_encodings.quality(coding) > 0 for coding in CODINGS):
            if request.blueprint == "files" and request.method == "GET" and response.status_code == 200:
                g.compressed_name = response.get_etag()[0] or ""
            return library.after_request(response)
        response.vary.add("Accept-Encoding")
        return response
