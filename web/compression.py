"""Answers in fewer bytes, for clients that take them (Accept-Encoding).

Owns which answers and how; Flask-Compress does it. Pictures are compressed already, and what fits into one
packet would arrive no sooner.
"""

from typing import Final

from flask import Flask, Response, request
from flask_compress import Compress

CODINGS: Final = ("br", "gzip")

LEAST_BYTES: Final = 1400
"""An answer to one picture has 500; the page, its files, /models and /openapi.json have more."""


def register(app: Flask) -> None:
    """Compress what `app` answers."""
    app.config.update(
        COMPRESS_REGISTER=False,
        COMPRESS_ALGORITHM=list(CODINGS),
        COMPRESS_MIN_SIZE=LEAST_BYTES,
        COMPRESS_MIMETYPES=["application/json", "text/html", "text/css", "text/javascript", "text/plain"],
        COMPRESS_STREAMS=False,
    )
    library = Compress(app)

    @app.after_request
    def compress(response: Response) -> Response:
        if (response.content_length or 0) < LEAST_BYTES:
            return response  # to all alike: looking closer took 10 microseconds of each answer to a picture
        # The library takes `gzip;q=0` for a yes.
        if any(request.accept_encodings.quality(coding) > 0 for coding in CODINGS):
            return library.after_request(response)
        response.vary.add("Accept-Encoding")
        return response
