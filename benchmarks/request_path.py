"""The path of one picture: every function of ours that runs between its POST /predict and its answer.

Owns the measurement: Gunicorn's worker as this service runs it, over a socket, and a model server's worker
with a fake network, both in this process, over a real Redis. Lease keepers are not started: they run with or
without a picture. Functions are marked that run in an idle second too, and those of a new connection alone.
Judges nothing.
"""

import argparse
import contextlib
import http.client
import io
import os
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from flask import Flask
from gunicorn.config import Config
from gunicorn.glogging import Logger
from PIL import Image

from broker.connection import connect
from broker.keys import Keys
from settings import PROJECT, Settings
from tests.support import fakes
from tests.support.redis_server import running_redis
from web.app import create_app
from web.server.worker import PatientWorker

OURS: Final = ("telemetry", "broker", "pictures", "web", "model_server")

_TIERS: Final = ("web", "model server")
_MODEL_SERVER: Final = ("model-server", "claimer-", "completer-")
"""How the names of its threads begin; all others are the web process's."""

_START_S: Final = 20.0
_IDLE_S: Final = 1.5
_AFTER_S: Final = 0.2
"""The model server still has its batch's books to close when the client has its answer."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of ours. A comprehension or a lambda belongs to the function around it."""

    file: str
    name: str


@dataclass(slots=True)
class Tracer:
    """Records functions, in every thread that starts after `install`, while `calls` is not None."""

    calls: dict[str, dict[Function, None]] | None = None
    """By tier, in the order of their first call."""
    _known: dict[CodeType, Function | None] = field(default_factory=dict)

    def install(self) -> None:
        """Record in this thread's children."""
        threading.setprofile(self._profile)

    @contextlib.contextmanager
    def recording(self) -> Iterator[dict[str, dict[Function, None]]]:
        """Record for as long as the block runs."""
        calls: dict[str, dict[Function, None]] = {tier: {} for tier in _TIERS}
        self.calls = calls
        yield calls
        self.calls = None

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:  # noqa: ANN401 - as sys calls it
        calls = self.calls
        if event != "call" or calls is None:
            return
        code = frame.f_code
        if code not in self._known:
            self._known[code] = _function(code)
        if function := self._known[code]:
            is_model_server = threading.current_thread().name.startswith(_MODEL_SERVER)
            calls[_TIERS[is_model_server]].setdefault(function)


def _function(code: CodeType) -> Function | None:
    """The function that the code belongs to, where that is ours and has a name."""
    path = Path(code.co_filename)
    if not path.is_relative_to(PROJECT) or path.relative_to(PROJECT).parts[0] not in OURS:
        return None
    if code.co_name.startswith("<"):  # the function around it has been recorded: it was called first
        return None
    return Function(str(path.relative_to(PROJECT)), code.co_qualname)


@contextlib.contextmanager
def serving(app: Flask) -> Iterator[int]:
    """Run Gunicorn's worker for the app in a thread; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    port: int = listener.getsockname()[1]
    cfg = Config()
    for name, value in {"threads": 2, "keepalive": 30, "graceful_timeout": 5}.items():
        cfg.set(name, value)
    worker = PatientWorker(0, os.getppid(), [listener], None, 30, cfg, Logger(cfg))
    worker.wsgi = app
    worker.tpool = worker.get_thread_pool()
    worker.poller = selectors.DefaultSelector()
    worker.method_queue.init()
    thread = threading.Thread(target=worker.run, name="web")
    thread.start()
    try:
        yield port
    finally:
        worker.handle_exit(None, None)
        thread.join()
        worker.tpool.shutdown()
        worker.tmp.close()


@contextlib.contextmanager
def running_service() -> Iterator[int]:
    """Run both tiers over a Redis of their own; the port of the web process."""
    keys = Keys("bw:")
    with (
        running_redis() as server,
        connect(server.url, timeout_s=5) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        app = create_app(Settings.from_env({"REDIS_URL": server.url, "MODELS": fakes.MODEL}))
        model_worker = fakes.worker(client, keys, fakes.FakeEngine(), Path(folder))
        thread = threading.Thread(target=model_worker.run, name="model-server")
        thread.start()
        replies = app.extensions["jobs"].replies
        replies.start()
        try:
            if not replies.is_subscribed(_START_S):
                raise TimeoutError("the web tier's subscription to Redis did not start")
            with serving(app) as port:
                yield port
        finally:
            model_worker.stopping.set()
            client.rpush(keys.of(fakes.MODEL).bell, "1")  # so that an idle worker looks at once
            thread.join()
            replies.stop()


@dataclass(slots=True)
class PicturePath:
    """The functions that a picture passes, and which of them another would not add."""

    calls: dict[str, list[Function]]
    """By tier, in call order, where the picture comes on a connection of its own."""
    idle: set[Function]
    """Those that run in an idle second."""
    kept: set[Function]
    """Those that run where the connection has been used before and stays."""


def post(connection: http.client.HTTPConnection, picture: bytes) -> None:
    """Send one picture as a form, as a browser does. Raises RuntimeError unless it is answered."""
    boundary = "path"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection.request("POST", "/predict", body, headers)
    response = connection.getresponse()
    response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"the service answered with {response.status}")


def trace(picture: bytes) -> PicturePath:
    """Send the picture on a new connection and on one that is kept, and record both."""
    tracer = Tracer()
    tracer.install()
    try:
        with running_service() as port:
            kept = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
            post(kept, picture)  # what only a process' first request does is not what is usual
            time.sleep(_AFTER_S)
            with tracer.recording() as idle:
                time.sleep(_IDLE_S)
            post(kept, picture)  # the table of models is read once a second, so not by most requests
            time.sleep(_AFTER_S)
            with tracer.recording() as of_kept:
                post(kept, picture)
                time.sleep(_AFTER_S)
            with (
                tracer.recording() as calls,
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as new,
            ):
                post(new, picture)
                new.close()
                time.sleep(_AFTER_S)
            kept.close()
    finally:
        threading.setprofile(None)
    return PicturePath(
        {tier: list(functions) for tier, functions in calls.items()}, _all(idle), _all(of_kept)
    )


def _all(calls: dict[str, dict[Function, None]]) -> set[Function]:
    return {function for functions in calls.values() for function in functions}


def report(path: PicturePath) -> str:
    """The path as text: a line a function, in call order, then the counts."""
    lines = []
    for tier, functions in path.calls.items():
        files = {function.file for function in functions}
        lines += ["", f"{tier}: {len(functions)} functions in {len(files)} files"]
        for function in functions:
            mark = "~" if function in path.idle else " " if function in path.kept else "+"
            lines.append(f"  {mark} {function.file}: {function.name}")
    every = {function for functions in path.calls.values() for function in functions}
    files = {function.file for function in every}
    opened = every - path.kept - path.idle
    lines += [
        "",
        f"{len(every)} functions in {len(files)} files: {len(every - opened - path.idle)} of the picture, "
        f"{len(opened)} more (+) where its connection is opened and closed, "
        f"{len(every & path.idle)} (~) that run in an idle second too",
    ]
    return "\n".join(lines).lstrip()


def _drawn_picture() -> bytes:
    jpeg = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(jpeg, "JPEG")
    return jpeg.getvalue()


def main() -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_path", description=__doc__)
    parser.add_argument("picture", nargs="?", type=Path, help="a picture to send; without it one is drawn")
    options = parser.parse_args()
    picture = options.picture.read_bytes() if options.picture else _drawn_picture()
    sys.stdout.write(report(trace(picture)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
