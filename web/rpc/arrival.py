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

MEMORY_BYTES: Final = 512 * 1024 * 1024
"""Of messages in a process, until they are answered. 25 may arrive at once where each may have 20 MB."""

ARRIVAL_S: Final = 10.0
"""A message that is not here by then takes a thread no longer."""

_LOOK_S: Final = 0.25


class Cancellable(Protocol):
    """What ends a call: gRPC's context."""

    def cancel(self) -> object:
        """End it."""


@dataclass(slots=True)
class MessagePlace:
    """The bytes that a call has taken of the memory for messages."""

    size: int


class MessageMemory:
    """The memory that messages may take, each `largest` at most. Safe to use from any thread."""

    def __init__(self, largest: int, most: int = MEMORY_BYTES) -> None:
        self._largest = largest
        self._left = max(largest, most)
        self._freed = threading.Condition()

    @contextmanager
    def place(self, *, wait_s: float = ARRIVAL_S) -> Iterator[MessagePlace]:
        """Memory for a message on its way in. Raises Overloaded when there is none in `wait_s`."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._left >= self._largest, wait_s):
                raise Overloaded("The messages in flight take all the memory there is for them.")
            self._left -= self._largest
        taken = MessagePlace(self._largest)
        try:
            yield taken
        finally:
            self.shrink(taken, 0)

    def shrink(self, place: MessagePlace, size: int) -> None:
        """Give back what the message does not take, now that its size is known."""
        with self._freed:
            self._left += place.size - size
            place.size = size
            self._freed.notify_all()


@dataclass(slots=True)
class _Waited:
    by: float
    call: Cancellable | None


class ArrivalWatch:
    """Cancels the calls whose messages take too long: their threads can't look at a clock while they wait."""

    def __init__(self, patience_s: float = ARRIVAL_S) -> None:
        self._patience_s = patience_s
        self._calls: deque[_Waited] = deque()
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
        waited = _Waited(time.monotonic() + self._patience_s, call)
        self._calls.append(waited)
        try:
            yield
        finally:
            waited.call = None

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            now = time.monotonic()
            # All have the same patience, so the first began first.
            while self._calls and (self._calls[0].call is None or self._calls[0].by <= now):
                call = self._calls.popleft().call
                if call is not None:
                    call.cancel()
