"""An archive behind HTTP on loopback, which can be changed, be away, and stop in the middle."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def zipped(folder: Path) -> bytes:
    """A .zip of a folder's content."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return packed.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: "ArchiveServer"

    def do_GET(self) -> None:
        server = self.server
        stamp = f'"{hashlib.sha256(server.content).hexdigest()}"'
        unchanged = self.headers.get("If-None-Match") == stamp
        server.asked.append((self.path, self.headers.get("Authorization") or ""))
        is_look = "Range" in self.headers  # of one byte
        status = 304 if unchanged else 206 if is_look else 200
        content = server.content[:1] if is_look else server.content
        has_body = not unchanged and server.status == 200
        self.send_response(status if server.status == 200 else server.status)
        if server.location:
            self.send_header("Location", server.location)
        self.send_header("ETag", stamp)
        self.send_header("Content-Length", str(len(content) if has_body else 0))
        self.end_headers()
        if not has_body:
            return
        if is_look:
            self.wfile.write(content)
            return
        half = len(server.content) // 2
        self.wfile.write(server.content[:half])
        server.halves += 1
        server.goes_on.wait(30)
        if not server.cuts_off:
            self.wfile.write(server.content[half:])
            server.wholes += 1

    def log_message(self, *_: object) -> None:
        """Nothing."""


class ArchiveServer(ThreadingHTTPServer):
    """Answers every path with `content`."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.status = 200
        self.location = ""
        self.cuts_off = False
        """Whether a download ends in its middle."""
        self.halves = self.wholes = 0
        """How often half of the content was sent, and the rest."""
        self.goes_on = threading.Event()
        """Set: a download does not stop in its middle."""
        self.goes_on.set()
        self.asked: list[tuple[str, str]] = []
        """Each request's path and Authorization."""

    def handle_error(self, *_: object) -> None:
        """A client that has gone."""

    @property
    def url(self) -> str:
        """Where the archive is."""
        return f"http://127.0.0.1:{self.server_port}/models.zip"
