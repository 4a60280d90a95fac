"""Refusals of requests that never reach the app, and what rendering one needs to know of its request.

Owns the errors that reading a request can end in. How an answer reads is the app's to say: it hands in a
RenderRefusal.
"""

from collections.abc import Callable
from typing import Self

from msgspec import Struct

from broker.errors import ClientError, ServiceError


class RequestHead(Struct, frozen=True):
    """What a request's header section says that its refusal must know.

    A struct: each request has one, and a dataclass would take 3 microseconds to make and 4 to complete.
    """

    origin: str = ""
    """The site whose page sends the request, as its browser says."""
    request_id: str = ""
    """As the client sent it."""
    method: str = ""
    path: str = ""
    """Without its query; empty if the request's first line could not be read."""
    query: str = ""
    has_preference: bool = False
    """It has the field Prefer."""
    authorization: str = ""
    x_api_key: str = ""
    """As the client sent them: secrets."""
    is_compressed: bool = False
    """Its body is, or says so."""
    is_head: bool = False
    """The answer has no body."""
    idle_s: int = 0
    """For so long the connection may be idle after the answer; 0: it is closed."""
    client: str = ""
    """The peer's address."""
    bytes_in: int = 0
    """How much of the body has come."""
    seconds: float = 0.0
    """Since its first byte."""

    def __repr__(self) -> str:
        """Without its secrets, and what may hold some: the query."""
        return f"RequestHead({self.method} {self.path})"


JudgeHead = Callable[[RequestHead], ServiceError | None]
"""The refusal of a request whose body still arrives, or None: it is read."""

RenderRefusal = Callable[[ServiceError, RequestHead], tuple[bytes, str]]
"""An error to the whole answer in bytes, and the request's id for the log."""


class UploadTimeout(ClientError):
    """The client stopped sending in the middle of its request, or all but stopped."""

    code = "upload_timeout"


class UploadTooLarge(ClientError):
    """The request has more bytes than are accepted."""

    code = "too_large"

    @classmethod
    def than(cls, bytes_: int, how: str = "") -> Self:
        """The refusal of more than so many."""
        most = f"{bytes_ / (1024 * 1024):g} MB{how and f', {how}'}"
        return cls(
            f"A request may have up to {most}. Send a smaller picture, or fewer; the operator can raise "
            "MAX_UPLOAD_MB."
        )


class UriTooLong(ClientError):
    """The request's first line is longer than is read."""

    code = "uri_too_long"


class HeaderTooLarge(ClientError):
    """The request's head is larger than is read."""

    code = "header_too_large"
