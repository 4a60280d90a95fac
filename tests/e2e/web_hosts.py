"""Several web hosts on one machine, and clients whose pictures are all different.

Owns how a host starts, dies, hangs and leaves, and what each client was answered. The model is that of
tests/chaos/numbers.py: each picture has a right answer of its own, and each of its runs is counted.
"""

import http.client
import itertools
import json
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import psutil

from tests.chaos import numbers
from tests.support.stack import START_S, Stack, free_port
from tests.support.waiting import eventually

CLIENTS: Final = 12
BROKEN_OFF: Final = b"IncompleteRead"
"""What `ask` says of an answer without its end: its web process died between its head and its body."""

_NUMBERS: Final = itertools.count(1)
"""0 is nobody's: tests may send it as often as they like."""


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@dataclass(frozen=True)
class Host:
    """The processes of a host, web tier or gRPC, on a port of its own."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """All of it, as when the power fails; but its kernel refuses connections from then on."""
        self._signal(signal.SIGKILL)
        self.process.wait(timeout=20)
        eventually(lambda: not _listens(self.port))

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """A context: nothing of it runs, and its kernel still takes connections."""
        stopped = self._signal(signal.SIGSTOP)
        eventually(lambda: all(process.status() == psutil.STATUS_STOPPED for process in stopped))
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def leave(self) -> None:
        """SIGTERM, and the time that it needs."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0

    def _signal(self, number: signal.Signals) -> list[psutil.Process]:
        master = psutil.Process(self.process.pid)
        processes = [master, *master.children()]
        for process in processes:  # the master first: it would replace the others
            process.send_signal(number)
        return processes


class WebHosts(Stack):
    """One Redis, one model server of numbers, and web hosts as they are asked for."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, redis_url, model=numbers.MODEL)
        numbers.write_catalogue(folder / "models")
        self.environment["MODELS_DIR"] = str(folder / "models")
        self._web: list[Host] = []

    def web_hosts(self, count: int) -> list[Host]:
        """So many web hosts that answer; those that are still there are not started again."""
        self._web = [host for host in self._web if host.process.poll() is None]
        new = [
            self._start_host("PORT", "gunicorn", "-c", "web/gunicorn.conf.py")
            for _ in range(count - len(self._web))
        ]
        for host in new:
            eventually(partial(is_answered, host.url, "/healthz"), within_s=3 * START_S)
        self._web += new
        self.url = self._web[0].url
        return self._web[:count]

    def grpc_hosts(self, count: int) -> list[Host]:
        """So many new hosts that serve gRPC."""
        new = [self._start_host("GRPC_PORT", "web.rpc") for _ in range(count)]
        for host in new:
            eventually(partial(_listens, host.port), within_s=3 * START_S)
        return new

    def start_numbers(self, *, delay_s: float) -> None:
        """Start the model server, whose calls take so long; it is ready when this returns."""
        self.model_server = self.start(
            "tests.chaos.numbers_server", str(self.executions), str(delay_s), log="model_server"
        )
        eventually(lambda: bool(self.ready_workers()), within_s=3 * START_S)

    def runs(self) -> Counter[int]:
        """How often each number was run."""
        return Counter(self.executed())

    def _start_host(self, setting: str, *command: str) -> Host:
        port = free_port()
        self.environment[setting] = str(port)
        return Host(port, self.start(*command, log=f"{command[0]}-{port}"))


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer to a request on a connection of its own; 0: there was none."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()


def is_answered(url: str, path: str) -> bool:
    """Whether a GET gives 200."""
    return ask(url, "GET", path)[0] == 200


@dataclass(frozen=True)
class Sent:
    """A picture that was sent, and what came back."""

    number: int
    status: int
    body: Any

    @property
    def is_right(self) -> bool:
        """It was answered, and the answer is its own."""
        return self.status == 200 and self.body["predictions"][0]["label"] == str(self.number)


class Load:
    """A context: clients each of which sends picture after picture, a connection each.

    `named`: with an Idempotency-Key, so a client that gets half an answer sends its picture again.
    """

    def __init__(self, url: str, *, named: bool = False) -> None:
        self._url = url
        self._named = named
        self._over = threading.Event()
        self.sent: list[Sent] = []
        self._threads = [threading.Thread(target=self._send) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def right(self) -> list[int]:
        """The numbers that were answered, each with its own answer."""
        return [each.number for each in tuple(self.sent) if each.is_right]

    @property
    def failed(self) -> list[Sent]:
        """Whatever else came back."""
        return [each for each in tuple(self.sent) if not each.is_right]

    def go_on(self, count: int, *, within_s: float = 60.0) -> None:
        """Wait until so many more pictures were answered."""
        before = len(self.right)
        eventually(lambda: len(self.right) >= before + count, within_s=within_s)

    def _send(self) -> None:
        while not self._over.is_set():
            number = next(_NUMBERS)
            headers = {"Content-Type": "image/png", "X-Request-ID": f"number-{number}"}
            if self._named:
                headers["Idempotency-Key"] = f"number-{number}"
            status, body = ask(self._url, "POST", "/predict", numbers.picture(number), headers)
            if self._named and body.startswith(BROKEN_OFF):  # nginx can't take back what it has begun to send
                status, body = ask(self._url, "POST", "/predict", numbers.picture(number), headers)
            with suppress(ValueError):
                body = json.loads(body)
            self.sent.append(Sent(number, status, body))
