"""Several processes of the web tier: who gets a new connection."""

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

PROCESSES = 2
CLIENTS = 40
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def web(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A web tier of two processes."""
    made = Stack(tmp_path, own_redis.url)
    made.environment["WEB_WORKERS"] = str(PROCESSES)
    try:
        yield made
    finally:
        made.stop()


def _started(web: Stack) -> list[psutil.Process]:
    """Start the web tier; return its processes once each of them takes connections."""
    master = psutil.Process(web.start_web().pid)
    eventually(lambda: len(master.children()) == PROCESSES)
    found: list[psutil.Process] = master.children()
    with ExitStack() as stack:

        def all_take_some() -> bool:
            stack.enter_context(_opened(web.port))
            return all(_connections(process, web.port) for process in found)

        eventually(all_take_some, within_s=30)
    eventually(lambda: not any(_connections(process, web.port) for process in found))
    return found


def _connections(process: psutil.Process, port: int) -> int:
    return sum(
        each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
        for each in process.net_connections("tcp")
    )


def _opened(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    assert _is_answered(client)
    return client


def _is_answered(client: socket.socket) -> bool:
    client.sendall(GET)
    answer = b""
    while not answer.endswith(b"}\n"):  # its head and its body may come one after the other
        answer += client.recv(65536)
    return answer.startswith(b"HTTP/1.1 200")


@pytest.mark.alone
def test_clients_that_come_at_once_are_shared_evenly(web: Stack) -> None:
    processes = _started(web)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", web.port), timeout=30))
            for _ in range(CLIENTS)
        ]
        assert all(_is_answered(client) for client in clients)
        counts = [_connections(process, web.port) for process in processes]
    assert sum(counts) == CLIENTS
    # A connection is taken after a few milliseconds even where the other process is not awake by then.
    assert min(counts) >= CLIENTS // 3, counts


def test_a_process_that_hangs_keeps_no_client_waiting(web: Stack) -> None:
    hanging, serving = _started(web)
    hanging.send_signal(signal.SIGSTOP)
    try:
        with ExitStack() as stack:
            for _ in range(CLIENTS):
                stack.enter_context(_opened(web.port))
            assert _connections(serving, web.port) == CLIENTS
    finally:
        hanging.send_signal(signal.SIGCONT)


@pytest.mark.timeout(120)
def test_a_process_that_hangs_is_replaced_and_its_clients_are_not_kept(web: Stack) -> None:
    """Those that it has can only be cut off: it holds their sockets. It used to hold them for 31 s."""
    hanging, serving = _started(web)
    with ExitStack() as stack:
        clients: list[socket.socket] = []
        while not _connections(hanging, web.port):
            clients.append(stack.enter_context(_opened(web.port)))
        mine = next(
            client for client in clients if client.getsockname()[1] in _client_ports(hanging, web.port)
        )
        hanging.send_signal(signal.SIGSTOP)
        eventually(lambda: hanging.status() == psutil.STATUS_STOPPED)
        began = time.monotonic()
        mine.sendall(GET)
        try:
            assert _is_cut_off(mine)
        finally:
            with suppress(psutil.NoSuchProcess):  # a stopped one would outlive the test
                hanging.kill()
        assert time.monotonic() - began < 20
    master = serving.parent()
    assert master is not None
    eventually(lambda: len(master.children()) == PROCESSES and hanging not in master.children(), within_s=30)
    assert serving in master.children()


def _client_ports(process: psutil.Process, port: int) -> set[int]:
    return {
        each.raddr.port for each in process.net_connections("tcp") if each.raddr and each.laddr.port == port
    }


def _is_cut_off(client: socket.socket) -> bool:
    """Whether the other side ends the connection without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True
