"""Which addresses have failures of a shape or of words of their own, and those.

Owns the choice by method and path, for the app's answers and for those of the loop, which knows no routes.
The status, the headers and the words of a failure are the service's everywhere.
"""

from msgspec import Struct

from broker.errors import ClientError
from web.dialects import torchserve, tutorials
from web.errors import FailureShape


class ProtocolFailure(Struct, frozen=True, kw_only=True):
    """A failure as Triton, KServe and TensorFlow Serving have it."""

    error: str


def shape_of(method: str, path: str) -> FailureShape | None:
    """How a failure looks at this address; None: as everywhere else."""
    if path == "/v2" or path.startswith(("/v1/", "/v2/")):
        return lambda message, _: ProtocolFailure(error=message)
    if method in ("POST", "PUT") and path.startswith("/predictions/"):
        return torchserve.failure
    return tutorials.FAILURES.get(path)


def unknown_address(method: str, path: str) -> ClientError | None:
    """The refusal of an address that no route has; None: as everywhere else."""
    if path.startswith("/v1/"):  # in TensorFlow Serving's words
        return ClientError(f"Malformed request: {method} {path[:200]}")
    return None
