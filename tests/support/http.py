"""Requests of the tests: a connection each, no proxy and no TLS.

Owns nothing but these defaults. httpx's own functions read the system's certificates for each request, which
takes a core 45 ms; a test that waits for a page asked for it again and again.
"""

from typing import Any

import httpx


def client(**options: Any) -> httpx.Client:  # noqa: ANN401 - httpx.Client's own
    """A client with the options of httpx.Client."""
    return httpx.Client(trust_env=False, verify=False, **options)  # noqa: S501 - there is no TLS to verify


def request(method: str, url: str, *, timeout: float = 5, **options: Any) -> httpx.Response:  # noqa: ANN401
    """One request, with the options of httpx.request; `timeout` is in seconds."""
    with client(timeout=timeout) as once:
        return once.request(method, url, **options)


def get(url: str, **options: Any) -> httpx.Response:  # noqa: ANN401
    """GET, likewise."""
    return request("GET", url, **options)


def post(url: str, **options: Any) -> httpx.Response:  # noqa: ANN401
    """POST, likewise."""
    return request("POST", url, **options)
