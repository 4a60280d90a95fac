"""The line that each request of the app has in the log, where ACCESS_LOG is on.

Owns what of Flask's request and response the line has. Its words are web/access_log.py's.
"""

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from flask import Flask, Response, g, request

from web import access_log, question
from web.access_log import Exchange
from web.middleware import request_ids
from web.middleware.request_lifecycle import BEGAN


class _Counted:
    """A body that is made while it is sent, and its bytes so far."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.bytes_out = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.bytes_out += len(chunk)
            yield chunk

    def close(self) -> None:
        """Close what it counts."""
        if (close := getattr(self._chunks, "close", None)) is not None:
            close()


def register(app: Flask) -> None:
    """Have the requests of `app` written down. Register it before what changes a response."""

    @app.after_request
    def write(response: Response) -> Response:
        exchange, began, asked = _exchange(response), BEGAN.get(), question.CURRENT.get()
        if response.is_sequence:
            seconds = time.perf_counter() - began
            sent = 0 if request.method == "HEAD" else response.calculate_content_length() or 0
            access_log.answered(replace(exchange, bytes_out=sent, seconds=seconds), asked)
            return response
        # A stream: it has been answered once it ends.
        counted = _Counted(response.iter_encoded())
        response.response = counted

        @response.call_on_close
        def end() -> None:
            seconds = time.perf_counter() - began
            ended = replace(exchange, bytes_out=counted.bytes_out, seconds=seconds)
            access_log.answered(ended, asked)

        return response


def _exchange(response: Response) -> Exchange:
    body = request.environ.get("wsgi.input")
    # A body in chunks has no length, but is whole: web/server collects it.
    length = len(body.getbuffer()) if isinstance(body, io.BytesIO) else 0
    return Exchange(
        access_log.path(request.method, request.path, request.args.get("model", "")),
        response.status_code,
        bytes_in=request.content_length if request.content_length is not None else length,
        bytes_out=0,
        seconds=0.0,
        request_id=request_ids.CURRENT.get(),
        client=request.remote_addr or "",
        dialect=g.dialect,
        key=str(g.get("key_name", "")),
    )
