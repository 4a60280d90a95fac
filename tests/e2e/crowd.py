"""Hundreds of slow clients at once, of four kinds. Owns how each misbehaves."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Final

from tests.e2e.hostile_cases import GOOD, http_request, raw

KINDS: Final = {"half heads": 200, "trickles": 200, "never read": 100, "never close": 100}

_TRICKLE: Final = raw(b"x" * 1_000_000)[:200]


@contextlib.contextmanager
def crowd(address: tuple[str, int]) -> Iterator[None]:
    """A context: they come, go on as they are, and are replaced when they are sent away."""
    stopping = threading.Event()
    thread = threading.Thread(target=_press, args=(address, stopping))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _press(address: tuple[str, int], stopping: threading.Event) -> None:
    clients: list[tuple[str, socket.socket]] = []
    with contextlib.ExitStack() as stack:
        for kind, count in KINDS.items():
            for _ in range(count):
                clients.append((kind, stack.enter_context(_client(address, kind))))
                if stopping.is_set():
                    return
        while not stopping.wait(1.0):
            for number, (kind, client) in enumerate(clients):
                try:
                    client.sendall(b"x" if kind == "trickles" else b"")
                except OSError:
                    clients[number] = (kind, stack.enter_context(_client(address, kind)))


def _client(address: tuple[str, int], kind: str) -> socket.socket:
    client = socket.socket()
    if kind == "never read":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.settimeout(60)
    client.connect(address)
    with contextlib.suppress(ConnectionError):
        client.sendall(
            {
                "half heads": b"POST /predict HT",
                "trickles": _TRICKLE,
                "never read": GOOD.sent,
                "never close": http_request("Connection: close", line="GET /healthz HTTP/1.1"),
            }[kind]
        )
    return client
