"""Real processes: Gunicorn and model servers over one Redis, started, killed and waited for.

Each tier is a user of its own in Redis, with the rights of deploy/redis/users.acl.
"""

import contextlib
import io
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from PIL import Image

from broker.connection import connect
from broker.keys import Keys
from broker.registry import SNAPSHOT_S
from tests.support import ROOT, http, program_fork
from tests.support.redis_server import RedisServer, as_user, running_redis
from tests.support.waiting import eventually

MODEL = "shades"
START_S = 60.0
"""A process starts in two or three seconds, but in thirty where others have the cores."""


_PORTS = itertools.count(random.randrange(1000))


def free_port() -> int:
    """A port that nobody has, and that neither a client nor a test beside this one gets before it is used.

    The kernel gives clients the ports from 32768 on. Each worker of pytest-xdist has a share of those below,
    and takes them in turn: of eight that a cluster takes by chance two are the same in one case of 36.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + worker % 20 * 1000
    while True:
        port = first + next(_PORTS) % 1000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


SHADE = 7
"""The brightness that most requests send."""


def shade(value: int) -> bytes:
    """An even grey picture as PNG."""
    buffer = io.BytesIO()
    Image.new("L", (32, 24), value).save(buffer, "PNG")
    return buffer.getvalue()


def wait_until_accepted(server: RedisServer, count: int) -> None:
    """Until so many jobs of shades are accepted; none may have been before."""
    with connect(server.url, timeout_s=5) as client:
        eventually(lambda: len(client.keys(Keys("bw:").of(MODEL).result("*"))) == count)


class Stack:
    """The service's processes over one Redis."""

    def __init__(self, folder: Path, redis_url: str, model: str = MODEL) -> None:
        self.model = model
        self.port = free_port()
        self.grpc_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.executions = folder / "executions"
        self.executions.touch()
        self.folder = folder
        self.prefix: list[str] = []
        """What starts each program; it must become it, for the process is signalled."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "REDIS_URL": redis_url,
            "PORT": str(self.port),
            "GRPC_PORT": str(self.grpc_port),
            "MODELS": model,
            "MODELS_DIR": str(ROOT / "tests" / "e2e" / "models"),
            "WEB_WORKERS": "1",
            "LEASE_S": "1",
        }

    def start(self, *command: str, log: str) -> subprocess.Popen[bytes]:
        """Start a Python program of the project, as its tier's user of Redis."""
        user = "web" if command[0] in ("gunicorn", "web.rpc") else "model_server"
        redis_url = as_user(self.environment["REDIS_URL"], user)
        environment = {**self.environment, "REDIS_URL": redis_url}
        if command[0].startswith("tests."):
            # A network of the tests' own: nothing has to be measured for its precision.
            environment.setdefault("PRECISION", "fp32")
        with (self.folder / f"{log}.log").open("ab") as file:
            if self.prefix or sys.platform != "linux":  # forks are adopted by what only Linux has
                process = subprocess.Popen(
                    [*self.prefix, sys.executable, "-m", *command],
                    cwd=ROOT,
                    env=environment,
                    stdout=file,
                    stderr=file,
                    stdin=subprocess.DEVNULL,
                )
            else:
                process = program_fork.start(command, cwd=ROOT, env=environment, output=file)
        self._processes.append(process)
        return process

    def start_web(self) -> subprocess.Popen[bytes]:
        """Start Gunicorn and wait until it answers."""
        process = self.start("gunicorn", "-c", "web/gunicorn.conf.py", log="web")
        try:
            eventually(lambda: self.answers("/healthz"), within_s=START_S)
        except AssertionError as error:
            log = (self.folder / "web.log").read_text()[-3000:]
            raise AssertionError(f"the web tier does not answer (exit {process.poll()}): {log}") from error
        return process

    def start_grpc(self) -> subprocess.Popen[bytes]:
        """Start the process of gRPC and wait until it listens."""
        process = self.start("web.rpc", log="grpc")

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.grpc_port), 1):
                return True
            return False

        eventually(listens, within_s=START_S)
        return process

    def start_model_server(self, *, delay_s: float = 0.0) -> subprocess.Popen[bytes]:
        """Start a model server of shades and wait until every web process knows one more ready worker."""
        before = self.ready_workers()
        process = self.start(
            "tests.e2e.shades_server", str(self.executions), str(delay_s), log="model_server"
        )
        # By id: one that was counted before may lapse meanwhile.
        eventually(lambda: bool(self.ready_workers() - before), within_s=START_S)
        if self.environment["WEB_WORKERS"] != "1":
            # One of them has said so. Another's snapshot may be older, and says that no model is announced.
            time.sleep(2 * SNAPSHOT_S)
        return process

    def answers(self, path: str) -> bool:
        """Whether a GET gives 200."""
        try:
            return http.get(self.url + path, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def text(self, path: str) -> str:
        """The body of a GET."""
        return http.get(self.url + path, timeout=START_S).text

    def ready_workers(self) -> set[str]:
        """The ids of the live workers of the model that are ready, as /models shows them."""
        try:
            models = http.get(f"{self.url}/models", timeout=5).json()["models"]
        except (httpx.HTTPError, KeyError):
            return set()
        return {
            worker["id"]
            for model in models
            if model["model"] == self.model
            for worker in model["workers"]
            if worker["state"] == "ready"
        }

    def executed(self) -> list[int]:
        """Every shade that a network has seen, repeats included."""
        return [int(line) for line in self.executions.read_text().split()]

    def stop(self) -> None:
        """End what still runs."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(timeout=20)


@contextlib.contextmanager
def web_up(stack: Stack) -> Iterator[Stack]:
    """A context: the stack's web tier answers; at the end all that was started is stopped."""
    try:
        stack.start_web()
        yield stack
    finally:
        stack.stop()


@contextlib.contextmanager
def whole_service(folder: Path, settings: dict[str, str] | None = None) -> Iterator[Stack]:
    """A context: a stack of its own with Redis, web tier and a model server that tells shades."""
    with running_redis() as redis:
        stack = Stack(folder, redis.url)
        stack.environment |= settings or {}
        with web_up(stack):
            stack.start_model_server()
            yield stack
