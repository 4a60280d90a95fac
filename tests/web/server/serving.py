"""A patient worker in a thread of the test's process, over real sockets, and clients as slow as they like."""

import json
import os
import selectors
import socket
import threading

from flask import Flask, request
from gunicorn.config import Config
from gunicorn.glogging import Logger

from web import errors
from web.server.answer_socket import AnswerSocket
from web.server.connection import Connection
from web.server.worker import PatientWorker

THREADS = 2
AT_MOST = 1_000_000
MUCH = 5_000_000

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /echo HTTP/1.1\r\nHost"


def post(body: bytes, *fields: bytes) -> bytes:
    """A request that is answered with its body's length."""
    head = [b"POST /echo HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *fields, b"", b""]
    return b"\r\n".join(head) + body


class Client:
    """A client that sends and reads as slowly as it likes."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> tuple[int, dict[str, object], dict[str, str]]:
        """The next answer: its status, its JSON, its fields."""
        status, body, fields = self._next()
        return status, json.loads(body) if body else {}, fields

    def raw(self) -> tuple[int, bytes]:
        """The next answer: its status and its bytes."""
        return self._next()[:2]

    def _next(self) -> tuple[int, bytes, dict[str, str]]:
        status = int(self._file.readline().split()[1])
        fields = {}
        while line := self._file.readline().strip():
            name, value = line.decode().split(": ", 1)
            fields[name] = value
        return status, self._file.read(int(fields.get("Content-Length", 0))), fields

    def at_end(self) -> bool:
        """Whether the other side has closed, and sent nothing more."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Serving:
    """A worker in a thread; `release` lets requests of /wait go on."""

    def __init__(self, connections: int) -> None:
        self.release = threading.Event()
        self.waiting: list[AnswerSocket] = []
        """The sockets of requests of /wait."""
        Connection.render_refusal = staticmethod(errors.refusal_renderer(()))
        listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self.address = listener.getsockname()
        cfg = Config()
        for name, value in {
            "threads": THREADS,
            "worker_connections": connections,
            "keepalive": 30,
            "graceful_timeout": 20,
        }.items():
            cfg.set(name, value)
        self.worker = PatientWorker(0, os.getppid(), [listener], None, 30, cfg, Logger(cfg))
        self.worker.wsgi = self._app()
        self.worker.tpool = self.worker.get_thread_pool()
        self.worker.poller = selectors.DefaultSelector()
        self.worker.method_queue.init()
        self._thread = threading.Thread(target=self.worker.run)
        self._thread.start()
        self._clients: list[Client] = []

    def _app(self) -> Flask:
        app = Flask("echo")
        app.config["MAX_CONTENT_LENGTH"] = AT_MOST

        @app.route("/echo", methods=["GET", "POST"])
        def echo() -> dict[str, object]:
            length = len(request.get_data())
            return {"length": length, "path": request.full_path, "client": request.remote_addr}

        @app.get("/wait")
        def wait() -> dict[str, object]:
            self.waiting.append(request.environ["gunicorn.socket"])
            assert self.release.wait(30)
            return {}

        @app.get("/much")
        def much() -> bytes:
            return b"x" * MUCH

        return app

    def client(self) -> Client:
        """A new connection."""
        self._clients.append(Client(self.address))
        return self._clients[-1]

    def answers(self) -> bool:
        """Whether a request on a new connection is answered."""
        client = self.client()
        client.send(GET)
        return client.answer()[0] == 200

    def told_to_stop(self) -> None:
        """As by SIGTERM."""
        self.worker.handle_exit(None, None)

    def ended(self) -> bool:
        """Whether its loop has ended."""
        return not self._thread.is_alive()

    def close(self) -> None:
        self.release.set()
        for client in self._clients:
            client.close()
        self.told_to_stop()
        self._thread.join(30)
        assert self.ended()
        assert self.worker.nr_conns == 0
        self.worker.tpool.shutdown()
        self.worker.tmp.close()
