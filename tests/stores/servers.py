"""Servers of three stores' APIs on loopback: moto's S3, an emulator of Google's, and a fake of the Hub's."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import httpx

from tests.stores.packages import PYTHON
from tests.support import http
from tests.support.stack import free_port
from tests.support.waiting import eventually

BUCKET = "models"

_GOOGLE = """
import sys
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True).run()
"""


_SOMEONE = "AWS4-HMAC-SHA256 Credential=a/20261130/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""Nobody's signature is checked unless a test asks for it; but a request without one may not write."""


class S3:
    """moto, with one bucket."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "moto.log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        command = [str(PYTHON), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)]
        self._process = _started(command, self.url, self._log)
        self._put("")

    def put(self, folder: Path, prefix: str) -> None:
        """Upload every file below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self._put(f"/{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def _put(self, key: str, content: bytes = b"") -> None:
        headers = {"Authorization": _SOMEONE}
        http.request("PUT", f"{self.url}/{BUCKET}{key}", content=content, headers=headers).raise_for_status()

    def check_credentials(self, *, on: bool) -> None:
        """Whether keys that nobody has made are refused."""
        http.post(f"{self.url}/moto-api/reset-auth", content="0" if on else "1000000").raise_for_status()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Google:
    """gcp-storage-emulator, with one bucket."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._process = _started([str(PYTHON), "-c", _GOOGLE, str(port)], self.url, folder / "google.log")
        http.post(f"{self.url}/storage/v1/b?project=p", json={"name": BUCKET}).raise_for_status()

    def put(self, folder: Path, prefix: str) -> None:
        """Upload every file below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = quote(f"{prefix}/{path.relative_to(folder)}", safe="")
                address = f"{self.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
                http.post(address, content=path.read_bytes()).raise_for_status()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class _HubHandler(BaseHTTPRequestHandler):
    """What huggingface_hub asks: the revision, the tree, some paths, and a file."""

    server: "Hub"

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        repository = f"/api/models/{self.server.repository}"
        at = self.server.revision
        if path in (repository, f"{repository}/revision/{at}"):
            self._answer({"id": self.server.repository, "sha": "0" * 40, "private": False, "siblings": []})
        elif path == f"{repository}/tree/{at}" or path.startswith(f"{repository}/tree/{at}/"):
            below = path.removeprefix(f"{repository}/tree/{at}").strip("/")
            entries = self.server.tree(below)
            self._answer(entries if entries else None)
        elif path.startswith(f"/{self.server.repository}/resolve/{at}/"):
            self._answer(self.server.files.get(path.split(f"/resolve/{at}/")[1]))
        else:
            self._answer(None)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = (
            json.loads(asked)["paths"]
            if asked.startswith("{")
            else httpx.QueryParams(asked).get_list("paths")
        )
        self._answer([entry for entry in self.server.tree("") if entry["path"] in paths])

    def _answer(self, content: object) -> None:
        told = {"error": "not found"} if content is None else content
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(404 if content is None else 200)
        if content is None:
            of_repository = self.path.startswith(f"/api/models/{self.server.repository}/")
            self.send_header("X-Error-Code", "EntryNotFound" if of_repository else "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Hub(ThreadingHTTPServer):
    """One repository of models at one revision. Real ones keep large files in Xet, which this has not."""

    daemon_threads = True

    def __init__(self, repository: str, revision: str) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.repository, self.revision = repository, revision
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def put(self, folder: Path, prefix: str) -> None:
        """Take over every file below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.files[f"{prefix}/{path.relative_to(folder)}".lstrip("/")] = path.read_bytes()

    def tree(self, below: str) -> list[dict[str, object]]:
        """What the API lists, files and folders."""
        folders = {str(parent) for path in self.files for parent in Path(path).parents} - {"."}
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0} for folder in sorted(folders)
        ]
        for path, content in self.files.items():
            oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            entries.append({"type": "file", "path": path, "oid": oid, "size": len(content)})
        return [entry for entry in entries if not below or str(entry["path"]).startswith(f"{below}/")]


@contextmanager
def stopped(server: S3 | Google) -> Iterator[S3 | Google]:
    """A context: the server is ended after it."""
    try:
        yield server
    finally:
        server.stop()


def _started(command: list[str], url: str, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            http.get(url, timeout=2)
        except httpx.HTTPError:
            return False
        return True

    try:
        eventually(answers, within_s=60)
    except BaseException:
        process.kill()
        raise
    return process
