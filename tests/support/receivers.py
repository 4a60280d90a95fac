"""A receiver of webhooks: an HTTP server that keeps what comes, and answers what a test wants."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

from tests.support.http_server import running

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a test's
"""The one of the Standard Webhooks' own examples."""


@dataclass(frozen=True)
class Call:
    """What one call brought."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def verified(self, secret: str = SECRET) -> object:
        """Its JSON, verified by the Standard Webhooks' library. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What came, and what is answered."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    answer: Callable[[Call], tuple[int, dict[str, str]]] = lambda _: (204, {})
    """From a call to a status and header fields. It may sleep."""

    @property
    def url(self) -> str:
        """An address with a query, which nobody may log."""
        return f"http://127.0.0.1:{self.port}/done?token=hidden"

    @property
    def ids(self) -> list[str]:
        """The ids of what came, in its order."""
        return [call.headers["webhook-id"] for call in self.calls]


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A context: a receiver on this machine, at a port of its own if none is given."""
    receiver = Receiver()
    changing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            call = Call(self.path, headers, body)
            with changing:
                receiver.calls.append(call)
            status, fields = receiver.answer(call)
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """A caller may be killed."""

    with running(Server(("127.0.0.1", port), Handler)) as server:
        receiver.port = server.server_port
        yield receiver
