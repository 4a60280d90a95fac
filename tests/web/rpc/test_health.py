"""Clients that harm others: they watch the health and send nothing, or read no answers."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient
from web.rpc import health
from web.rpc.server import RpcServer

pytestmark = pytest.mark.slow  # together they wait for seconds

WATCH = "/grpc.health.v1.Health/Watch"


def _watch(port: int) -> int:
    """The first state that somebody is told who watches."""
    with RpcClient(port) as client:
        watch = client.channel.unary_stream(
            WATCH, response_deserializer=health_pb2.HealthCheckResponse.FromString
        )
        status: int = next(watch(b"", timeout=5)).status
        return status


def _silent(over: threading.Event) -> Iterator[bytes]:
    over.wait(30)
    yield from ()


def test_who_watches_and_sends_no_message_keeps_nobody_out(rpc: RpcClient) -> None:
    over = threading.Event()
    watch = rpc.channel.stream_stream(WATCH)
    calls = [watch(_silent(over)) for _ in range(20)]
    assert _watch(rpc.port) == health_pb2.HealthCheckResponse.NOT_SERVING
    # The time for a message is 2 s here.
    eventually(lambda: all(call.done() for call in calls), within_s=10)
    over.set()


def test_who_asks_for_an_unknown_service_is_told(rpc: RpcClient) -> None:
    watch = rpc.channel.unary_stream(WATCH, response_deserializer=health_pb2.HealthCheckResponse.FromString)
    request = health_pb2.HealthCheckRequest(service="x").SerializeToString()
    first = next(watch(request, timeout=5))
    assert first.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_so_many_watch_and_no_more(rpc: RpcClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_WATCHERS", 2)
    watch = rpc.channel.unary_stream(WATCH)
    calls = [watch(b"") for _ in range(2)]
    for call in calls:
        next(call)
    with pytest.raises(grpc.RpcError, match="watch the health already"):
        next(watch(b"", timeout=5))
    calls[0].cancel()
    eventually(lambda: _is_told(watch))
    calls[1].cancel()


def _is_told(watch: grpc.UnaryStreamMultiCallable) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(list(itertools.islice(watch(b"", timeout=5), 1)))
    return False


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _field(name: bytes, value: bytes) -> bytes:
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _unread(port: int) -> socket.socket:
    """A connection that watches, with a window of no bytes for what it is told."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": WATCH.encode(),
        b":authority": b"x",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, struct.pack(">HI", 4, 0))
        + _frame(1, 4, 1, b"".join(_field(*each) for each in fields.items()))
        + _frame(0, 1, 1, bytes(5))
    )
    return connection


def test_who_watches_and_does_not_read_stops_neither_others_nor_the_end(server: RpcServer) -> None:
    with _unread(server.port), _unread(server.port):
        eventually(lambda: len(server.health._watchers) == 2)
        assert _watch(server.port) == health_pb2.HealthCheckResponse.NOT_SERVING
        began = time.monotonic()
        server.stop(within_s=15)
        assert time.monotonic() - began < 5


def test_a_connection_is_told_how_many_calls_it_may_have(server: RpcServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        told = b""
        while len(told) < 9 or len(told) < 9 + int.from_bytes(told[:3]):
            told += connection.recv(1)
    settings = dict(struct.iter_unpack(">HI", told[9:]))
    # 3: SETTINGS_MAX_CONCURRENT_STREAMS
    assert settings[3] == 1024
