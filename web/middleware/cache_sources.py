"""`X-Cache`: where an answer comes from, picture by picture, while the response cache is on.

Owns the header. Which word it is says web/cached_inference.py.
"""

from collections.abc import Sequence

from flask import Flask, Response, g, has_app_context

from web.responses import CACHE_FIELD


def register(app: Flask) -> None:
    """Give each answer that was noted its header; a failure too."""

    @app.after_request
    def say(response: Response) -> Response:
        if sources := g.get("cache_sources"):
            response.headers[CACHE_FIELD] = ", ".join(sources)
        return response


def note(sources: Sequence[str]) -> None:
    """Remember it for the answer of this thread's request, where that is one of HTTP."""
    if has_app_context():
        g.cache_sources = sources
