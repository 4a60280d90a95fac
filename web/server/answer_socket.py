"""A client's socket that an answer never waits for, and the answers that their clients have not read yet.

Owns what is left of an answer: the thread that made it hands over what the kernel does not take at once, and
the loop sends it as its client reads. Owns as well what a thread that waits hears of its client: that it has
sent more, or closed. Closes nothing; worker.py does, when a client is too slow.
"""

import contextlib
import math
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Final

GRACE_S: Final = 5.0
PACE_BYTES_PER_S: Final = 16 * 1024
"""An answer must be read as fast as an upload must come (request_reader.py)."""

BUFFER_BYTES: Final = 256 * 1024
"""The kernel takes an answer of this size at once, whatever its client reads; most are smaller."""

SILENCE_S: Final = 5.0
"""A client must not read nothing for so long."""


class AnswerSocket(socket.socket):
    """A socket whose `sendall` returns at once: what can't be sent yet is kept."""

    has_input = False
    """While a thread is at a request: there are bytes to read, or the end. The loop sees it first."""

    on_input: Callable[[], None] | None = None
    """What the loop calls then, for a thread that sleeps; it must not wait. The next request has none."""

    left = 0
    """Bytes of the answer that are still here."""

    deadline = math.inf
    """When its client must have read more, by the clock of `begin`."""

    _by = math.inf
    _parts: deque[memoryview]
    """What is left. Most answers leave nothing, and so there is none before."""

    def sendall(self, data: bytes, flags: int = 0, /) -> None:  # type: ignore[override] # only bytes come
        """Send what the kernel takes; keep the rest, and all that comes after it. Raises OSError."""
        rest = memoryview(data)
        if not self.left:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.send(rest, flags | socket.MSG_DONTWAIT) :]
            if not rest:
                return
            self._parts = deque()
        self._parts.append(rest)
        self.left += len(rest)

    def note_input(self) -> None:
        """There is something to read."""
        self.has_input = True
        if (wake := self.on_input) is not None:
            wake()

    def begin(self, now: float) -> None:
        """The answer is whole; its client is to read it from now on."""
        self._by = now + GRACE_S + self.left / PACE_BYTES_PER_S
        self.deadline = min(now + SILENCE_S, self._by)

    def go_on(self, now: float) -> None:
        """Send more, without waiting. Raises OSError."""
        while self.left:
            part = self._parts[0]
            try:
                count = self.send(part, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.left -= count
            self.deadline = min(now + SILENCE_S, self._by)
            if count < len(part):
                self._parts[0] = part[count:]
                return
            self._parts.popleft()


SERVED: Final[ContextVar[AnswerSocket | None]] = ContextVar("served_socket", default=None)
"""That of the request which this thread answers; None: it answers none that the loop gave it."""


def widen(listeners: Iterable[socket.socket]) -> None:
    """Give the kernel that much room for answers on every connection that these accept."""
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
