"""Gunicorn's threaded worker with patience: a thread is given a request only once all of it is here.

Owns the connections of a web process while no thread is at them, all in its one loop thread, so that a client
which sends or reads slowly costs a descriptor and never a thread; stages.py counts them. (Gunicorn's own
worker: 128 half heads stop a process for ever, 30 clients that do not close stop it for a minute.) Judges no
request: request_reader.py says when one is whole, Gunicorn's parser what it means. No TLS and no HTTP/2: a
proxy in front has those.
"""

import contextlib
import errno
import logging
import math
import os
import selectors
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ClassVar, Final

from gunicorn.http.errors import ConfigurationProblem
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from broker.errors import ClientError, Overloaded, ServiceError
from telemetry import logs
from web.server import answer_socket, capacity
from web.server.balancing import ConnectionBalance
from web.server.connection import Connection, Stage
from web.server.holding import HeldRefusals
from web.server.refusals import JudgeHead
from web.server.request_reader import Arrival
from web.server.stages import (
    LINGER_S,
    ArrivingConnections,
    LingeringConnections,
    SendingConnections,
    crowd,
)

_READ_BYTES: Final = 256 * 1024  # at most at once: a usual upload takes one read to three
_SWEEP_S: Final = 0.25

_LINGERING: Final = 8
"""An eighth of the places is for answered connections that wait for their clients to close: a reset before
would take the answer away."""

_MOST_MARGIN_S: Final = 5

TurnAway = Callable[[Arrival], ServiceError | None]
"""The refusal of a whole request, or None: a thread answers it."""


def _named_s(keepalive_s: int) -> int:
    """What Keep-Alive says: a little less than the truth, so that the client gives up first; 1 of 1."""
    return max(1, keepalive_s - max(1, min(_MOST_MARGIN_S, keepalive_s // 10)))


def _naming_keep_alive(app: Callable[..., Any], keepalive_s: int) -> Callable[..., Any]:
    """The app, its answers saying how long their connection may be idle, where it goes on.

    It can't come from the app: only Gunicorn's response knows whether it closes, and it drops the app's
    hop-by-hop fields.
    """
    named_s = _named_s(keepalive_s)

    def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:  # noqa: ANN401 - WSGI's
        response = start_response.__self__  # type: ignore[attr-defined] # Gunicorn's Response
        chunks = app(environ, start_response)
        # Flask has started the response by now; its header section is sent with the first chunk.
        if not response.should_close():
            response.headers.append(("Keep-Alive", f"timeout={named_s}"))
        return chunks

    return call


class PatientWorker(ThreadWorker):  # type: ignore[misc] # Gunicorn has no types
    """See the module. All methods except `handle` run in the loop thread."""

    wsgi: Any

    turn_away: ClassVar[TurnAway] = staticmethod(lambda _: None)
    """Which whole requests need no thread to be refused; the app hands it in before the first (wsgi.py)."""

    judge_head: ClassVar[JudgeHead] = staticmethod(lambda _: None)
    """Which requests need not be read to be refused, by their header section; handed in as well."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - Gunicorn's own
        super().__init__(*args, **options)
        self._bound(0)
        self._scratch = memoryview(bytearray(_READ_BYTES))
        self._next_sweep = 0.0
        self._neighbours = ConnectionBalance(self.age)
        self._stop_by = math.inf
        self._lingering_most = self.worker_connections // _LINGERING

    def run(self) -> None:
        """Serve until stopped."""
        self._bound(self.wsgi.config["MAX_CONTENT_LENGTH"])
        capacity.open_files()
        answer_socket.widen(self.sockets)
        self.wsgi = _naming_keep_alive(self.wsgi, self.cfg.keepalive)
        super().run()
        # No heartbeat follows: Gunicorn is to count from when this process must have ended.
        end_by = time.monotonic() + self.left_s()
        os.utime(self.tmp.fileno(), (end_by, end_by))

    def _bound(self, most_bytes: int) -> None:
        """Begin to count, with requests of so many bytes at most."""
        self.arriving = ArrivingConnections(most_bytes, type(self).judge_head)
        self.sending = SendingConnections(most_bytes)
        self.lingering = LingeringConnections(most_bytes)
        self.held = HeldRefusals()

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, or leave it to another process; where all places are taken one gives way."""
        if self._neighbours.leave(self.nr_conns):
            self.set_accept_enabled(False)
            return
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room(lingering=0)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections - self._lingering_most:
            self._bound_connections()
        self._neighbours.tell(self.nr_conns)
        self._idle(Connection(self.cfg, client, address, listener.getsockname()))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Listen for new connections, or not: not while they are left to the others."""
        super().set_accept_enabled(enabled and not self._neighbours.left_s())

    def handle(self, conn: Connection) -> bool:
        """Answer a whole request, in a thread of the pool; return whether the connection goes on."""
        answer_socket.SERVED.set(conn.sock)
        try:
            return bool(self.handle_request(conn.arrival.opened(), conn))
        except ServiceError as error:
            conn.refuse(error)
        except ConfigurationProblem:
            conn.refuse(ClientError("The request's SCRIPT_NAME is not its path's."))
        except OSError as error:
            self.log.debug("A client did not take its answer: %s", error)
        except StopIteration:
            pass
        except Exception:
            request_id = conn.refuse(ServiceError("The service failed on this request; its log says why."))
            about = logs.about(request_id=request_id)
            self.log.exception("Request %s: an unexpected error; this is a bug", request_id, extra=about)
        return False

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """A thread has answered: what its client has not read yet is sent from here."""
        conn.goes_on = not (fs.cancelled() or fs.exception()) and fs.result()
        conn.rest = self.arriving.done(conn)
        if not conn.sock.left or conn.sock.fileno() < 0:  # Gunicorn closes it where an answer breaks off
            self._answered(conn)
            return
        conn.unwatch(self.poller)
        self.sending.begin(conn, time.monotonic())
        conn.watch(self.poller, partial(self._on_writable, conn), selectors.EVENT_WRITE)
        if self.sending.unsent > self.sending.unsent_most and (largest := self.sending.largest()):
            self._drop(largest)

    def _on_writable(self, conn: Connection, _: object) -> None:
        """Its client has read some of its answer, or is gone."""
        if conn.stage is not Stage.SENDING:  # closed by what was woken before it
            return
        try:
            if self.sending.go_on(conn, time.monotonic()):
                self.sending.leave(conn)
                conn.unwatch(self.poller)
                self._answered(conn)
        except OSError:
            self._drop(conn)

    def _answered(self, conn: Connection) -> None:
        """All of an answer is sent: on to the connection's next request, or to its end."""
        rest, conn.rest = conn.rest, b""
        if conn.goes_on:
            self._idle(conn)
            if rest:
                self._take(conn, rest)
        else:
            self._linger(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve what is ready; wait for it no longer than until something may be late."""
        self._neighbours.tell(self.nr_conns)
        if self.nr_conns >= self.worker_connections:  # it accepts none: all were at work, but now one may go
            self._bound_connections()
        if self.arriving or self.sending or self.lingering or self.held.waiting:
            timeout = min(timeout, _SWEEP_S)
        if self._neighbours.leaves_until:
            timeout = min(timeout, self._neighbours.left_s() or timeout)
        super().wait_for_and_dispatch_events(timeout)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections that have been idle for long enough, but none on which a request has come."""
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            conn = self.keepalived_conns[0]
            if not force:
                self._on_readable(conn)  # what came while this loop was busy counts
            if conn.stage is Stage.IDLE:
                self._drop(conn)

    def murder_pending(self) -> None:
        """Refuse requests that are late and close connections that lingered, a few times a second."""
        now = time.monotonic()
        if now < self._next_sweep:
            return
        self._next_sweep = now + _SWEEP_S
        for conn, error in self.held.due(now if self.alive else math.inf):
            self._answer_turned_away(conn, error)
        for conn in list(self.arriving) if self._stop_by <= now else self.arriving.late(now):
            self._on_readable(conn)  # what came while this loop was busy counts
            if conn.stage is Stage.ARRIVING and self._stop_by <= now:
                self._refuse(conn, Overloaded("This process is stopping; send it again."))
            elif conn.stage is Stage.ARRIVING and conn.arrival.deadline <= now:
                self._refuse(conn, conn.arrival.late())
        for conn in self.lingering.late(now):
            self._drop(conn)
        for conn in self.sending.late(now):
            # The selector is silent until a third of the kernel's buffer is free.
            self._on_writable(conn, None)
            if conn.stage is Stage.SENDING and conn.sock.deadline <= now:
                self._drop(conn)

    def is_parent_alive(self) -> bool:
        """Whether Gunicorn's master is there: without it this process stops, as on SIGTERM."""
        if not (is_there := bool(super().is_parent_alive())):
            self.alive = False
        return is_there

    def _cap_keepalive(self, deadline: float) -> None:
        """The process is stopping: requests that arrive may go on, until LINGER_S before Gunicorn ends it."""
        super()._cap_keepalive(deadline)
        self._neighbours.end()
        self._stop_by = time.monotonic() + max(0.0, self.cfg.graceful_timeout - LINGER_S)
        self._leave_port()

    def _leave_port(self) -> None:
        """Take the connections that wait to be accepted, and listen no more.

        A client that comes later is refused at once, where no other process listens: left to wait it would be
        reset as the last one ends, up to `graceful_timeout` seconds later.
        """
        for listener in self.sockets:
            before = -1
            while before < self.nr_conns < self.worker_connections:
                before = self.nr_conns
                self.accept(listener)
            listener.close()

    def left_s(self) -> float:
        """For how long this process may go on, at its end; 0 if it ends for another reason than a stop."""
        return max(0.0, self._stop_by - time.monotonic()) if math.isfinite(self._stop_by) else 0.0

    def _idle(self, conn: Connection) -> None:
        """Wait for a (next) request, but not for long where the process is stopping."""
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + STOP_KEEPALIVE_LINGER)
        conn.stage = Stage.IDLE
        conn.sock.has_input, conn.sock.on_input = False, None
        self.keepalived_conns.append(conn)
        if not conn.is_watched:
            conn.watch(self.poller, partial(self._on_readable, conn))

    def _on_readable(self, conn: Connection, _: object = None) -> None:
        """Its socket has something to read: bytes, or the end."""
        if conn.stage is Stage.WORKING:
            # Only now: most clients wait for their answer, and so most requests need no call to the selector.
            conn.unwatch(self.poller)
            conn.sock.note_input()
            return
        if conn.stage in (Stage.SENDING, Stage.CLOSED):  # by what was woken before it
            return
        try:
            count = conn.sock.recv_into(self._scratch, 0, socket.MSG_DONTWAIT)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._drop(conn)
            return
        if not count:
            if conn.stage is Stage.ARRIVING:
                self._refuse(conn, ClientError("The request was cut short."))
            else:
                self._drop(conn)
        elif conn.stage is not Stage.LINGERING:
            self._take(conn, self._scratch[:count])
        elif not self.lingering.discard(conn, count, time.monotonic()):
            self._drop(conn)

    def _take(self, conn: Connection, data: memoryview | bytes) -> None:
        """Add to the connection's request, and give it to a thread once it is whole."""
        now = time.monotonic()
        if conn.stage is Stage.IDLE:
            self.keepalived_conns.remove(conn)
        try:
            if self.arriving.feed(conn, data, now):
                if (overloaded := type(self).turn_away(conn.arrival)) is None:
                    self.enqueue_req(conn)
                else:
                    self._turn_away(conn, overloaded, now)
        except ServiceError as error:
            self._refuse(conn, error)
        if self.arriving.held > self.arriving.held_most and (largest := self.arriving.largest()):
            self._refuse(largest, Overloaded("Too many large uploads at once; send it again."))

    def _refuse(self, conn: Connection, error: ServiceError) -> None:
        """Answer a request that still arrives."""
        request_id = conn.refuse(error)
        self.arriving.leave(conn)
        self._note("refused", conn, request_id, error)
        self._linger(conn)

    def _turn_away(self, conn: Connection, error: ServiceError, now: float) -> None:
        """Refuse a whole request, whose connection may go on; later, where clients come back at once."""
        self.arriving.forget_body(conn)
        if not self.held.hold(conn, error, now):
            self._answer_turned_away(conn, error)

    def _answer_turned_away(self, conn: Connection, error: ServiceError) -> None:
        arrival = conn.arrival
        # What came after it would be next; one that is refused as well would be refused within this call.
        conn.goes_on = bool(self.alive and self.cfg.keepalive and not arrival.rest and not arrival.closes())
        request_id = conn.refuse(error, idle_s=_named_s(self.cfg.keepalive) if conn.goes_on else 0)
        self._note("turned away", conn, request_id, error)
        self.arriving.done(conn)
        self._answered(conn)

    def _note(self, what: str, conn: Connection, request_id: str, error: ServiceError) -> None:
        """Log a refusal, at debug: an overloaded service refuses by the thousand."""
        if self.log.error_log.isEnabledFor(logging.DEBUG):
            about = logs.about(request_id=request_id)
            words = "Request %s of %s was %s: %s"
            self.log.debug(words, request_id, conn.client, what, error.code, extra=about)

    def _linger(self, conn: Connection) -> None:
        """Close an answered connection once its client has: a reset before would take the answer away."""
        try:
            self.lingering.begin(conn, time.monotonic())
        except OSError:
            self._drop(conn)
        else:
            conn.watch(self.poller, partial(self._on_readable, conn))

    def _bound_connections(self) -> None:
        """Make room where all places are taken, of which lingering connections have their own."""
        most = self._lingering_most
        if self.nr_conns - min(len(self.lingering), most) >= self.worker_connections - most:
            self._make_room(most)

    def _make_room(self, lingering: int) -> None:
        """Close or refuse some of the largest crowd; then of the connections that linger so many may stay."""
        for conn in crowd(self.keepalived_conns, [*self.sending, *self.arriving], time.monotonic()):
            if conn.stage is not Stage.SENDING:
                self._on_readable(conn)  # what came while this loop was busy counts
            if conn.stage is Stage.ARRIVING:
                self._refuse(conn, Overloaded("Too many connections; come back in 1 s."))
            elif conn.stage in (Stage.IDLE, Stage.SENDING):
                self._drop(conn)
        for conn in list(self.lingering)[: max(0, len(self.lingering) - lingering)]:
            self._drop(conn)

    def _drop(self, conn: Connection) -> None:
        """Close a connection, whatever it does."""
        match conn.stage:
            case Stage.CLOSED:
                return
            case Stage.IDLE:
                self.keepalived_conns.remove(conn)
            case Stage.ARRIVING:
                self.arriving.leave(conn)
            case Stage.SENDING:
                self.sending.leave(conn)
            case Stage.LINGERING:
                del self.lingering[conn]
        conn.unwatch(self.poller)
        self.nr_conns -= 1
        conn.stage = Stage.CLOSED
        with contextlib.suppress(OSError):  # a reset that nobody has read
            conn.sock.close()
