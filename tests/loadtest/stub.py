"""A small HTTP server that says what a test's script tells it to, for the load tester to be tried on."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Final

from tests.support.http_server import running

Script = Callable[[int], Any]
"""What request number n is answered: a JSON body (`status` is the HTTP status), bytes, or None to hang up."""

PICTURE_HEADERS: Final = ("content-type", "prefer", "x-secret")


def prediction(label: str = "cat", probability: object = 0.9) -> dict[str, object]:
    return {"label": label, "class_id": "n1", "probability": probability}


def answer(number: int = 0, **changes: object) -> dict[str, Any]:
    return {"success": True, "model": "m", "id": f"id-{number}", "predictions": [prediction()], **changes}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "StubServer"

    def do_GET(self) -> None:
        if self.path.startswith("/predictions/"):
            self._reply(self.server.polled(self.path))
        elif self.path == "/models" and self.server.models is not None:
            self._reply(self.server.models)
        else:
            self._reply({"status": 404})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            number = next(self.server.numbers)
            headers = {name: self.headers[name] for name in PICTURE_HEADERS if name in self.headers}
            self.server.seen.append((self.path, headers, body))
        self._reply(self.server.script(number))

    def _reply(self, said: object) -> None:
        if said is None:
            self.close_connection = True
            return
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        status, location = (
            (said.get("status", 200), said.get("location")) if isinstance(said, dict) else (200, None)
        )
        head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(content)}\r\n"
        if location:
            head += f"Location: {location}\r\n"
        self.wfile.write(head.encode() + b"\r\n" + content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class StubServer(ThreadingHTTPServer):
    """Knows what it was asked: `seen` holds (path, headers, body) of each POST."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.script = script
        self.polled: Callable[[str], Any] = lambda _: {"status": 404}
        self.models: Any = None
        self.numbers = count()
        self.lock = threading.Lock()
        self.seen: list[tuple[str, dict[str, str], bytes]] = []

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that went away."""


@contextmanager
def stub_server(script: Script = answer) -> Iterator[StubServer]:
    with running(StubServer(script)) as server:
        yield server
