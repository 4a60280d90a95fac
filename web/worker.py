"""Gunicorn's threaded worker with patience: a thread is given a request only once all of it is here.

Owns the connections of a web process while they are idle, arriving, slow to read or closing: all in its one
loop thread, so that a client which sends or reads slowly costs a descriptor and never a thread.
(Gunicorn's own worker: 128 half heads stop a process for ever, 30 clients that do not close stop it for a
minute.) Judges no request: arrival.py says when one is whole, Gunicorn's parser what it means. No TLS and no
HTTP/2: a proxy in front has those.
"""

import errno
import resource
import selectors
import socket
import time
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from gunicorn.http.errors import ConfigurationProblem
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from broker.errors import ClientError, Overloaded, ServiceError
from web.connection import Connection, Stage
from web.neighbours import Neighbours

HELD_BYTES: Final = 256 * 1024 * 1024
"""Requests in memory, arriving or at work; above this the largest that still arrives is refused. As much of
answers that wait for their clients; above it the client with the most is given up."""

SEND_BUFFER_BYTES: Final = 256 * 1024
"""The kernel takes an answer of this size at once, whatever its client reads; most are smaller."""

LINGER_S: Final = 2.0
"""How long an answered connection waits for its client to close, as Gunicorn's does."""

_READ_BYTES: Final = 256 * 1024
"""At most in one read: a usual upload takes one to three."""

_FILES: Final = 8192
"""Open files: many systems begin with 1024, which a thousand connections and Redis' would exceed."""

_SWEEP_S: Final = 0.25


class PatientWorker(ThreadWorker):  # type: ignore[misc] # Gunicorn has no types
    """See the module. Methods run in the loop thread, but for `handle`."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Gunicorn's own
        super().__init__(*args, **options)
        self.arriving: dict[Connection, None] = {}
        self.lingering: dict[Connection, None] = {}
        self.sending: dict[Connection, None] = {}
        """Each in the order in which they came."""
        self._held = self._unsent = 0
        self._scratch = memoryview(bytearray(_READ_BYTES))
        self._next_sweep = 0.0
        self._neighbours = Neighbours(self.age)
        self._stop_by = float("inf")
        self._most_bytes = self._held_most = 0

    def run(self) -> None:
        """Serve until told to stop."""
        self._most_bytes = self.wsgi.config["MAX_CONTENT_LENGTH"]
        self._held_most = max(HELD_BYTES, 2 * self._most_bytes)
        files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, min(most_files, _FILES)), most_files))
        for listener in self.sockets:  # what it accepts inherits it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, or leave it to another process; where all places are taken one gives way."""
        if self._neighbours.leave(self.nr_conns):
            self.set_accept_enabled(False)
            return
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        self._neighbours.tell(self.nr_conns)
        self._idle(Connection(self.cfg, client, address, listener.getsockname()))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Listen for new connections, or not: not while they are left to the others."""
        super().set_accept_enabled(enabled and not self._neighbours.left_s())

    def handle(self, conn: Connection) -> bool:
        """Answer a whole request, in a thread of the pool; return whether the connection goes on."""
        try:
            try:
                return bool(self.handle_request(conn.opened(), conn))
            except ConfigurationProblem:
                raise ClientError("The request's SCRIPT_NAME is not its path's.") from None
        except ServiceError as error:
            conn.refuse(error)
        except OSError as error:
            self.log.debug("A client did not take its answer: %s", error)
        except StopIteration:
            pass
        except Exception:
            request_id = conn.refuse(ServiceError("The service failed on this request; its log says why."))
            self.log.exception("Request %s: an unexpected error; this is a bug", request_id)
        return False

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """A thread has answered: what its client has not read yet is sent from here."""
        self._held -= conn.held
        conn.goes_on = not (fs.cancelled() or fs.exception()) and fs.result()
        conn.rest = conn.done()
        if not conn.sock.left or conn.sock.fileno() < 0:  # Gunicorn closes it where an answer breaks off
            self._answered(conn)
            return
        conn.unwatch(self.poller)
        conn.sock.begin(time.monotonic())
        conn.stage = Stage.SENDING
        self.sending[conn] = None
        self._unsent += conn.sock.left
        conn.watch(self.poller, partial(self._on_writable, conn), selectors.EVENT_WRITE)
        if self._unsent > self._held_most:
            self._drop(max(self.sending, key=lambda each: each.sock.left))

    def _on_writable(self, conn: Connection, _: object) -> None:
        """Its client has read some of its answer, or is gone."""
        if conn.stage is not Stage.SENDING:  # closed by what was woken before it
            return
        self._unsent -= conn.sock.left
        try:
            conn.sock.go_on(time.monotonic())
        except OSError:
            self._unsent += conn.sock.left
            self._drop(conn)
            return
        self._unsent += conn.sock.left
        if not conn.sock.left:
            self._leave(conn)
            conn.unwatch(self.poller)
            self._answered(conn)

    def _answered(self, conn: Connection) -> None:
        """All of an answer is sent: on to the connection's next request, or to its end."""
        rest, conn.rest = conn.rest, b""
        if not conn.goes_on:
            self._linger(conn)
            return
        self._idle(conn)
        if rest:
            self._take(conn, rest)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve what is ready; wait for it no longer than until something may be late."""
        self._neighbours.tell(self.nr_conns)
        patience_s = _SWEEP_S if self.arriving or self.sending or self.lingering else timeout
        patience_s = self._neighbours.left_s() or patience_s
        super().wait_for_and_dispatch_events(min(timeout, patience_s))

    def murder_pending(self) -> None:
        """Refuse requests that are late and close connections that lingered, a few times a second."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_S
        for conn in [each for each in self.arriving if min(each.deadline, self._stop_by) <= now]:
            self._read(conn)  # what came while this loop was busy counts
            if conn.stage is Stage.ARRIVING and self._stop_by <= now:
                self._refuse(conn, Overloaded("This process is stopping; send it again."))
            elif conn.stage is Stage.ARRIVING and conn.deadline <= now:
                self._refuse(conn, conn.late())
        for conn in [each for each in self.lingering if each.timeout <= now]:
            self._drop(conn)
        for conn in [each for each in self.sending if each.sock.deadline <= now]:
            self._on_writable(
                conn, None
            )  # the selector is silent until a third of the kernel's buffer is free
            if conn.stage is Stage.SENDING and conn.sock.deadline <= now:
                self._drop(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        """The process is told to stop: what arrives may go on, but not until Gunicorn ends the process."""
        super()._cap_keepalive(deadline)
        self._neighbours.end()
        self._stop_by = time.monotonic() + max(0.0, self.cfg.graceful_timeout - LINGER_S)

    def _idle(self, conn: Connection) -> None:
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        conn.stage = Stage.IDLE
        self.keepalived_conns.append(conn)
        conn.watch(self.poller, partial(self._on_readable, conn))

    def _on_readable(self, conn: Connection, _: object) -> None:
        """Its socket has something to read: bytes, or the end."""
        if conn.stage is Stage.WORKING:
            # Only now: most clients wait for their answer, and so most requests need no call to the selector.
            conn.unwatch(self.poller)
        elif conn.stage is not Stage.CLOSED:  # by what was woken before it
            self._read(conn)

    def _read(self, conn: Connection) -> None:
        try:
            count = conn.read_into(self._scratch)
        except BlockingIOError:
            return
        except OSError:
            self._drop(conn)
            return
        if conn.stage is Stage.LINGERING:
            self._discard(conn, count)
        elif count:
            self._take(conn, self._scratch[:count])
        elif conn.stage is Stage.ARRIVING:
            self._refuse(conn, ClientError("The request was cut short."))
        else:
            self._drop(conn)

    def _take(self, conn: Connection, data: memoryview | bytes) -> None:
        """Add to the connection's request, and give it to a thread once it is whole."""
        now = time.monotonic()
        if conn.stage is Stage.IDLE:
            self.keepalived_conns.remove(conn)
            self.arriving[conn] = None
            conn.stage = Stage.ARRIVING
            conn.begin(at_most=self._most_bytes, now=now)
        self._held -= conn.held
        try:
            whole = conn.feed(data, now)
        except ServiceError as error:
            self._held += conn.held
            self._refuse(conn, error)
            return
        self._held += conn.held
        if whole:
            del self.arriving[conn]
            conn.stage = Stage.WORKING
            self.enqueue_req(conn)
        if self._held > self._held_most and self.arriving:
            largest = max(self.arriving, key=lambda each: each.held)
            self._refuse(largest, Overloaded("Too many large uploads at once; send it again."))

    def _refuse(self, conn: Connection, error: ServiceError) -> None:
        """Answer a request that still arrives."""
        self._leave(conn)
        request_id = conn.refuse(error)
        self.log.debug("Request %s of %s was refused: %s", request_id, conn.client, error.code)
        self._linger(conn)

    def _linger(self, conn: Connection) -> None:
        """Close an answered connection once its client has: a reset before would take the answer away."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.timeout = time.monotonic() + LINGER_S
        conn.stage = Stage.LINGERING
        self.lingering[conn] = None
        conn.watch(self.poller, partial(self._on_readable, conn))

    def _discard(self, conn: Connection, count: int) -> None:
        """Throw away what a client sends after its answer, up to four times what a request may have."""
        conn.discarded += count
        if not count or conn.discarded > 4 * self._most_bytes:
            self._drop(conn)

    def _make_room(self) -> None:
        """Close one connection: that which lingers the longest, else is idle, sends, arrives."""
        for conn in (*self.lingering, *self.keepalived_conns, *self.sending, *self.arriving):
            if conn.stage is Stage.ARRIVING:
                conn.refuse(Overloaded("Too many connections; come back in 1 s."))
            self._drop(conn)
            return

    def _drop(self, conn: Connection) -> None:
        """Close a connection, whatever it does."""
        if conn.stage is Stage.CLOSED:
            return
        self._leave(conn)
        conn.unwatch(self.poller)
        self.nr_conns -= 1
        conn.close()

    def _leave(self, conn: Connection) -> None:
        """Out of whatever the loop keeps it for."""
        match conn.stage:
            case Stage.IDLE:
                self.keepalived_conns.remove(conn)
            case Stage.ARRIVING:
                del self.arriving[conn]
                self._held -= conn.held
                conn.done()
            case Stage.SENDING:
                del self.sending[conn]
                self._unsent -= conn.sock.left
            case Stage.LINGERING:
                del self.lingering[conn]
        conn.stage = Stage.WORKING
