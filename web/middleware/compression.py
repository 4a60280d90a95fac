"""Compression of answers, for clients that accept it (Accept-Encoding).

Owns which answers are compressed and how; Flask-Compress does the work. Images are compressed already, and an
answer that fits into one packet would arrive no sooner.
"""

from typing import Final

from flask import Flask, Request, Response, g, request
from flask_compress import Compress

CODINGS: Final = ("br", "gzip")

LEAST_BYTES: Final = 1400
"""An answer for one image has 500 bytes; the page, its files, /models and /openapi.json have more."""


class _FileCache:
    """Compressed files by coding and content: compressing Swagger UI's took 27 ms each time."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """See Flask-Compress."""
        return self._files.get(key)

    def set(self, key: str, value: bytes) -> None:
        """See Flask-Compress. An answer without a name is not cached; the files are few."""
        if not key.endswith(";"):
            self._files[key] = value


def _name(_: Request) -> str:
    """The answer's key in the cache."""
    return str(g.get("compressed_name", ""))


def register(app: Flask) -> None:
    """Compress the answers of `app`."""
    app.config.update(
        COMPRESS_REGISTER=False,
        COMPRESS_ALGORITHM=list(CODINGS),
        COMPRESS_MIN_SIZE=LEAST_BYTES,
        COMPRESS_MIMETYPES=["application/json", "text/html", "text/css", "text/javascript", "text/plain"],
        COMPRESS_STREAMS=False,
        COMPRESS_CACHE_KEY=_name,
        COMPRESS_CACHE_BACKEND=_FileCache,
    )
    library = Compress(app)

    @app.after_request
    def compress(response: Response) -> Response:
        if (response.content_length or 0) < LEAST_BYTES:
            return response  # whatever the client accepts: to look took 10 microseconds of each small answer
        # The library treats `gzip;q=0` as acceptable.
        if any(request.accept_encodings.quality(coding) > 0 for coding in CODINGS):
            if request.blueprint == "files" and request.method == "GET" and response.status_code == 200:
                g.compressed_name = response.get_etag()[0] or ""
            return library.after_request(response)
        response.vary.add("Accept-Encoding")
        return response
