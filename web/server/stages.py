"""Connections on their way: requests that still arrive, answers that are being read, and those that close.

Owns which they are, in the order in which they came, the bytes that each kind holds in memory, and so who is
late and who gives way. Reads and closes nothing; worker.py does.
"""

import contextlib
import socket
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from web.server.connection import Connection, Stage
from web.server.refusals import JudgeHead
from web.server.request_reader import Arrival

HELD_BYTES: Final = 256 * 1024 * 1024
"""Requests in memory, arriving or at work; above this the largest that still arrives is refused. As much of
answers that wait for their clients; above it the client with the most is given up."""

LINGER_S: Final = 2.0
"""How long an answered connection waits for its client to close, as Gunicorn's does."""

LINGER_MOST_S: Final = 30.0
"""And in all, while its client still sends the request that was refused: many read no answer before that."""


SILENT_S: Final = 0.5
"""A new connection that has sent nothing for so long gives way before all others."""

_AT_ONCE: Final = 16
"""A sixteenth of a crowd gives way at once: to find it takes a look at all connections."""


def crowd(idle: Iterable[Connection], others: Iterable[Connection], now: float) -> list[Connection]:
    """Those that give way where all places are taken, the oldest first: some of the largest crowd.

    A crowd is of one address and one stage: a flood, of half requests or of whole ones, takes its places from
    itself. But first come connections that have never sent anything.
    """
    crowds: defaultdict[tuple[object, ...], list[Connection]] = defaultdict(list)
    silent: defaultdict[object, list[Connection]] = defaultdict(list)
    for conn in idle:
        crowds[conn.address, conn.stage, not conn.requests].append(conn)
        if not conn.requests and conn.accepted_at <= now - SILENT_S:
            silent[conn.address].append(conn)
    for conn in others:
        crowds[conn.address, conn.stage].append(conn)
    largest = max(silent.values() or crowds.values(), key=len, default=[])
    return largest[: 1 + len(largest) // _AT_ONCE]


class ConnectionSet(dict[Connection, None]):
    """The connections of one stage, in the order in which they came."""


class ArrivingConnections(ConnectionSet):
    """Requests that are not whole yet. Their bytes count until `done`, while a thread is at them as well."""

    def __init__(self, most_bytes: int, judge: JudgeHead = lambda _: None) -> None:
        super().__init__()
        self.most_bytes = most_bytes
        """Bytes of one request."""
        self._judge = judge
        self.held_most = max(HELD_BYTES, 2 * most_bytes)
        self.held = 0

    def feed(self, conn: Connection, data: memoryview | bytes, now: float) -> bool:
        """Add to its request, or begin its next; return whether that is whole, and so arrives no more.

        Raises ServiceError.
        """
        if conn.stage is not Stage.ARRIVING:
            self[conn] = None
            conn.stage = Stage.ARRIVING
            conn.requests += 1
            conn.arrival = Arrival(
                conn.cfg, conn.peer, number=conn.requests, at_most=self.most_bytes, now=now
            )
        arrival = conn.arrival
        self.held -= arrival.held
        try:
            whole = arrival.feed(data, now)
        finally:
            self.held += arrival.held
            conn.client = arrival.client
        if whole:
            del self[conn]
            conn.stage = Stage.WORKING
            return True
        if arrival.head.method and not arrival.is_judged:
            arrival.is_judged = True
            if (refusal := self._judge(arrival.head)) is not None:
                raise refusal
        if arrival.wants_continue:
            with contextlib.suppress(OSError):  # the next read tells
                conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)
        return False

    def leave(self, conn: Connection) -> None:
        """Its request will never be whole."""
        del self[conn]
        conn.stage = Stage.WORKING
        self.done(conn)

    def done(self, conn: Connection) -> bytes:
        """Forget its request; return what came after it."""
        arrival = conn.arrival
        del conn.arrival
        self.held -= arrival.held
        return arrival.rest

    def forget_body(self, conn: Connection) -> None:
        """Let go of a whole request's body."""
        self.held -= conn.arrival.held
        conn.arrival.forget_body()
        self.held += conn.arrival.held

    def late(self, now: float) -> list[Connection]:
        """Those whose deadline has passed."""
        return [conn for conn in self if conn.arrival.deadline <= now]

    def largest(self) -> Connection | None:
        """The one that gives way, where all together hold more than `held_most`."""
        return max(self, key=lambda conn: conn.arrival.held, default=None)


class SendingConnections(ConnectionSet):
    """Answers that their clients have not read all of."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self.unsent_most = max(HELD_BYTES, 2 * most_bytes)
        self.unsent = 0

    def begin(self, conn: Connection, now: float) -> None:
        """Its answer is whole; the kernel has not taken all of it."""
        conn.sock.begin(now)
        self[conn] = None
        conn.stage = Stage.SENDING
        self.unsent += conn.sock.left

    def go_on(self, conn: Connection, now: float) -> bool:
        """Send more; return whether that was the last. Raises OSError."""
        self.unsent -= conn.sock.left
        try:
            conn.sock.go_on(now)
        finally:
            self.unsent += conn.sock.left
        return not conn.sock.left

    def leave(self, conn: Connection) -> None:
        """It is read, or given up."""
        del self[conn]
        conn.stage = Stage.WORKING
        self.unsent -= conn.sock.left

    def late(self, now: float) -> list[Connection]:
        """Those whose clients are too slow."""
        return [conn for conn in self if conn.sock.deadline <= now]

    def largest(self) -> Connection | None:
        """The one that gives way, where all together wait with more than `unsent_most`."""
        return max(self, key=lambda conn: conn.sock.left, default=None)


class LingeringConnections(ConnectionSet):
    """Answered connections that wait for their clients to close."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._most_discarded = 4 * most_bytes

    def begin(self, conn: Connection, now: float) -> None:
        """Nothing more is sent. Raises OSError."""
        conn.sock.shutdown(socket.SHUT_WR)
        conn.timeout = now + LINGER_S
        conn.linger_until = now + LINGER_MOST_S
        self[conn] = None
        conn.stage = Stage.LINGERING

    def discard(self, conn: Connection, count: int, now: float) -> bool:
        """Its client has sent this many bytes after its answer; return whether it may go on."""
        conn.discarded += count
        conn.timeout = min(now + LINGER_S, conn.linger_until)
        return conn.discarded <= self._most_discarded

    def late(self, now: float) -> list[Connection]:
        """Those that have waited for long enough."""
        return [conn for conn in self if conn.timeout <= now]
