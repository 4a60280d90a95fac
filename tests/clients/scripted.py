"""A small HTTP server that answers by a test's script, over real sockets: late, cut short, or not at all."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from tests.support.http_server import running


@dataclass(frozen=True)
class Reply:
    """An answer of the script."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    """Half of the body is sent, and the connection closed."""


RESET = None
"""The connection is reset before an answer."""

Script = Callable[[int, "HttpRequest"], Reply | None]


@dataclass(frozen=True)
class HttpRequest:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def good(number: int = 0, **changes: object) -> Reply:
    """An answer as the service gives it."""
    prediction = {"label": "cat", "class_id": "n1", "probability": 0.5}
    body = {"success": True, "model": "m", "id": f"id-{number}", "predictions": [prediction], **changes}
    return Reply(json.dumps(body).encode(), headers={"X-Request-ID": f"request-{number}"})


def failed(status: int, code: str, retry_after: str | None = None, **changes: object) -> Reply:
    """A failure as the service gives it."""
    body = {"success": False, "error": {"code": code, "message": "Why."}, "request_id": "r", **changes}
    return Reply(json.dumps(body).encode(), status, {"Retry-After": retry_after} if retry_after else {})


def listed(*models: str, state: str = "ready") -> Reply:
    """What `/models` answers."""
    body: dict[str, Any] = {
        "default_model": models[0],
        "default_answered_by": models[0],
        "models": [{"model": model, "state": state, "reason": "no weights."} for model in models],
    }
    return Reply(json.dumps(body).encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "ScriptedServer"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = HttpRequest(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        with self.server.lock:
            self.server.requests.append(request)
            number = next(self.server.numbers[self.command])
        reply = self.server.scripts[self.command](number, request)
        if reply is RESET:
            # With this option closing resets: the other side reads ECONNRESET, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        fields = {"Content-Length": str(len(reply.body)), "Content-Type": "application/json", **reply.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
        self.wfile.write(f"HTTP/1.1 {reply.status} -\r\n{head}\r\n".encode() + body)
        self.close_connection = reply.cut

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class ScriptedServer(ThreadingHTTPServer):
    """Keeps the requests that came."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, post: Script, get: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.scripts = {"POST": post, "GET": get}
        self.numbers = {"POST": count(), "GET": count()}
        self.lock = threading.Lock()
        self.requests: list[HttpRequest] = []

    @property
    def posts(self) -> list[HttpRequest]:
        """The pictures that came."""
        return [request for request in self.requests if request.method == "POST"]

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away, or were sent away."""


@contextmanager
def scripted(
    post: Script = lambda number, _: good(number), get: Script = lambda *_: listed("m")
) -> Iterator[ScriptedServer]:
    """A context: a server that answers each POST and each GET, which are numbered from 0, by a script."""
    with running(ScriptedServer(post, get)) as server:
        yield server
