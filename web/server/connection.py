"""A client's connection: its socket and the request on it.

Owns what a connection remembers between the loop and the threads. Waits for nothing.
"""

import contextlib
import enum
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

from gunicorn.workers.gthread import TConn
from msgspec import structs

from broker.errors import ServiceError
from web.server.answer_socket import AnswerSocket
from web.server.refusals import RenderRefusal
from web.server.request_reader import Arrival


class Stage(enum.Enum):
    """Who has a connection: the loop in all stages but one."""

    IDLE = enum.auto()
    """No byte of a (next) request has come."""
    ARRIVING = enum.auto()
    WORKING = enum.auto()
    """A thread has it, or will."""
    SENDING = enum.auto()
    """Answered; its client has not read all of it yet."""
    LINGERING = enum.auto()
    """Answered for the last time; its client has not closed yet."""
    CLOSED = enum.auto()


class Connection(TConn):  # type: ignore[misc] # Gunicorn has no types
    """What worker.py keeps of a client; `handle_request` of Gunicorn's reads sock, client and server."""

    render_refusal: ClassVar[RenderRefusal]
    """How `refuse` answers; the app hands it in before the first request (wsgi.py)."""

    stage = Stage.WORKING
    is_watched = False
    """The loop's selector has it."""

    goes_on = False
    """Once its answer is sent, it may have a next request."""

    rest = b""
    """What came after its request, until the answer is sent."""

    timeout: float
    """When it has been idle, or has lingered, for long enough."""

    linger_until: float
    """When it has lingered for long enough, whatever its client still sends."""

    discarded = 0
    """Bytes that came after its last answer."""

    arrival: Arrival
    """The request that arrives or is at work; stages.py sets and deletes it."""

    requests = 0
    """How many have begun."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - Gunicorn's own
        super().__init__(*args)
        self.peer = self.client
        """Where the connection comes from; `client` is who sent its last request, through a proxy perhaps."""
        self.accepted_at = time.monotonic()
        accepted = self.sock
        self.sock: AnswerSocket = AnswerSocket(
            accepted.family, accepted.type, accepted.proto, fileno=accepted.detach()
        )
        # The loop says at each call that it will not wait: switching the mode for each request would cost two
        # more calls that let go of Python's lock, and have to wait for it.
        self.sock.setblocking(True)

    @property
    def address(self) -> object:
        """Where its client is: the host's address, whatever the port. Through a proxy: its last request's."""
        return _host(self.client)

    def watch(
        self, poller: selectors.BaseSelector, wake: Callable[..., None], event: int = selectors.EVENT_READ
    ) -> None:
        """Have the selector call `wake` when there is something to read, or room to write."""
        if self.is_watched:
            return
        self.is_watched = True
        try:
            poller.register(self.sock, event, wake)
        except KeyError:  # Gunicorn closed a socket in a thread, and this one has its number
            poller.unregister(self.sock.fileno())
            poller.register(self.sock, event, wake)

    def unwatch(self, poller: selectors.BaseSelector) -> None:
        """Take it from the selector, where it has it."""
        if self.is_watched:
            self.is_watched = False
            with contextlib.suppress(KeyError, ValueError):  # see watch
                poller.unregister(self.sock)

    def refuse(self, error: ServiceError, *, idle_s: int = 0) -> str:
        """Send an answer that the app did not make to the current request, and return the request's id.

        Unless it may be idle for `idle_s` then, the connection must be closed after it.
        """
        arrival = self.arrival
        head = structs.replace(
            arrival.head,
            idle_s=idle_s,
            client=str(_host(arrival.client) or ""),
            bytes_in=arrival.received,
            seconds=time.monotonic() - arrival.began_at,
        )
        answer, request_id = type(self).render_refusal(error, head)
        with contextlib.suppress(OSError):  # a client that is gone, or reads nothing, needs none
            self.sock.send(answer, socket.MSG_DONTWAIT)
        return request_id


def _host(client: object) -> object:
    """A client's address without its port; a Unix socket's as it is."""
    return client[0] if isinstance(client, tuple) else client
