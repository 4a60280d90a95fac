"""Messages on their way in: how much memory they may take together, and how long one may take.

Owns both bounds. gRPC tells neither how large a message will be nor how much of it is here: one on its way
counts as the largest that is accepted.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from broker.errors import Overloaded
from web.server import malloc

MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Of messages in a process until they are answered: what a web process has for those that arrive."""

ARRIVAL_S: Final = 10.0
"""A message that is not here by then takes a thread no longer."""

PRESSED_S: Final = 5.0
"""The same, while another waits for memory: a dozen clients that send nothing would keep all others out. With
1 s, 24 clients that took 2 s each for 3 MB had one answer in 20: somebody always waited."""

_LOOK_S: Final = 0.25

_LARGE_BYTES: Final = 1024 * 1024
_TRIM_S: Final = 5.0
"""grpcio keeps a message in small pieces: after 60 messages of 19 MB a process stayed at 540 MB, with a
trim at 90."""


class Cancellable(Protocol):
    """What ends a call: gRPC's context."""

    def cancel(self) -> object:
        """End it."""


@dataclass(slots=True)
class MessagePlace:
    """The bytes that a call has taken of the memory for messages."""

    size: int
    received: int = 0
    """Bytes of the message, once it is here."""


class MessageMemory:
    """The memory that messages may take, each `largest` at most. Safe to use from any thread."""

    def __init__(self, largest: int, most: int = MEMORY_BYTES) -> None:
        self._largest = largest
        self._left = max(largest, most)
        self._freed = threading.Condition()
        self._waiting = 0
        self._had_large = False
        self._trimmed_at = time.monotonic()

    @property
    def is_short(self) -> bool:
        """Whether a message waits for memory."""
        return self._waiting > 0

    @contextmanager
    def place(self, *, wait_s: float = ARRIVAL_S) -> Iterator[MessagePlace]:
        """Memory for a message on its way in. Raises Overloaded when there is none in `wait_s`."""
        with self._freed:
            self._waiting += 1
            try:
                if not self._freed.wait_for(lambda: self._left >= self._largest, wait_s):
                    raise Overloaded("The messages in flight take all the memory there is for them.")
            finally:
                self._waiting -= 1
            self._left -= self._largest
        taken = MessagePlace(self._largest)
        try:
            yield taken
        finally:
            self._had_large = self._had_large or taken.size > _LARGE_BYTES
            self.shrink(taken, 0)

    def shrink(self, place: MessagePlace, size: int) -> None:
        """Give back what the message does not take, now that its size is known."""
        with self._freed:
            self._left += place.size - size
            place.size = size
            self._freed.notify_all()

    def trim(self) -> None:
        """Have what large messages took go back to the system, once in a while."""
        if self._had_large and time.monotonic() - self._trimmed_at >= _TRIM_S:
            self._had_large = False
            malloc.give_back_free_pages()
            self._trimmed_at = time.monotonic()


@dataclass(slots=True)
class _Arriving:
    since: float
    call: Cancellable | None


class ArrivalWatch:
    """Cancels the calls whose messages take too long: their threads can't look at a clock while they wait."""

    def __init__(self, memory: MessageMemory, patience_s: float = ARRIVAL_S) -> None:
        self._memory = memory
        self._patience_s = patience_s
        self._calls: deque[_Arriving] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="arrivals", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    @contextmanager
    def watching(self, call: Cancellable) -> Iterator[None]:
        """A context in which this call's message comes, or the call is cancelled."""
        arriving = _Arriving(time.monotonic(), call)
        self._calls.append(arriving)
        try:
            yield
        finally:
            arriving.call = None

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            patience_s = min(self._patience_s, PRESSED_S) if self._memory.is_short else self._patience_s
            late = time.monotonic() - patience_s
            # The first began first.
            while self._calls and (self._calls[0].call is None or self._calls[0].since <= late):
                call = self._calls.popleft().call
                if call is not None:
                    call.cancel()
            self._memory.trim()
