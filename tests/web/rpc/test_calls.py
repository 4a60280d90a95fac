"""What holds for every call: ids, bounds, statuses, and the end of a server."""

import contextlib
import gc
import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import redis
from grpc_health.v1 import health_pb2
from prometheus_client import REGISTRY

from broker.connection import connect
from broker.errors import NoWorker, Overloaded, ServiceError
from broker.keys import Keys
from settings import Settings
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.pictures import png
from tests.support.redis_server import RedisServer
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded, is_closed
from web import errors
from web.rpc import arrival
from web.rpc.arrival import ArrivalWatch, MessageMemory
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.server import RpcServer

pytestmark = pytest.mark.slow  # together they wait for seconds

INFER = "/inference.GRPCInferenceService/ModelInfer"
MB = 1024 * 1024


def _classes(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield error
    for below in error.__subclasses__():
        yield from _classes(below)


def test_every_error_has_a_status_that_grpc_has() -> None:
    assert {each.code for each in _classes(ServiceError)} <= errors.RPC_STATUS.keys()
    assert errors.RPC_STATUS.keys() == errors.STATUS.keys()
    assert set(errors.RPC_STATUS.values()) <= {status.name for status in grpc.StatusCode}


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("no good", False), ("", False)])
def test_ids_and_traces_are_those_of_the_metadata(
    service: Service, rpc: RpcClient, client: redis.Redis, keys: Keys, sent: str, kept: bool
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = rpc.method("ModelInfer").future(
        pb.ModelInferRequest(**encoded(png(0))),
        timeout=20,
        metadata=[("x-request-id", sent), ("traceparent", trace)],
    )
    queue = keys.of(MODEL).queue
    eventually(lambda: client.llen(queue) == 1)
    job = client.lindex(queue, 0)
    assert isinstance(job, bytes)
    assert trace.encode() in job
    service.start_worker()
    call.result()
    told = dict(call.trailing_metadata())["x-request-id"]
    assert (told == sent) is kept
    assert told.encode() in job
    assert len(told) == (5 if kept else 36)


def test_a_refusal_has_its_id_and_when_to_come_again(rpc: RpcClient) -> None:
    error = rpc.refused("ModelInfer", model_name="never")
    metadata = dict(error.trailing_metadata())
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (metadata["retry-after"], len(metadata["x-request-id"])) == ("1", 36)
    assert "retry-after" not in dict(rpc.refused("ModelInfer", model_name="x").trailing_metadata())


def test_an_unexpected_error_is_internal_and_logged(
    server: RpcServer, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> None:
        raise ZeroDivisionError("ours")

    caplog.set_level(logging.INFO, logger="web.rpc.calls")
    monkeypatch.setattr(server.jobs.models, "require", broken)
    error = rpc.refused("ModelInfer", **encoded(png(0)))
    assert (error.code(), "its log says why" in error.details()) == (grpc.StatusCode.INTERNAL, True)
    assert "ours" not in error.details()
    line = next(record for record in caplog.records if record.message == "ModelInfer: INTERNAL")
    assert line.levelno == logging.INFO
    assert any(
        record.levelno == logging.ERROR and "this is a bug" in record.message for record in caplog.records
    )


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """Cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize("place", ["require", "submit_once", "wait"])
def test_a_refusal_keeps_no_message(
    server: RpcServer, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    refusals: list[weakref.ref[NoWorker]] = []

    def refusal() -> NoWorker:
        error = NoWorker("not now")
        refusals.append(weakref.ref(error))
        return error

    def failing(*_: object, **__: object) -> None:
        raise refusal()

    monkeypatch.setattr(server.jobs.models if place == "require" else server.jobs, place, failing)
    # Of two pictures the second's error is in nobody's hands.
    assert rpc.refused("ModelInfer", **encoded(png(0), png(1))).code() is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: bool(refusals) and all(each() is None for each in refusals))


@pytest.mark.parametrize("letter", ["x", "\u732b"])
def test_a_long_message_reaches_its_client(
    server: RpcServer, rpc: RpcClient, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    def failing(_: str) -> None:
        raise NoWorker(letter * 100_000)

    monkeypatch.setattr(server.jobs.models, "require", failing)
    error = rpc.refused("ModelInfer", **encoded(png(0)))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == letter * len(error.details())


@pytest.mark.parametrize("environment", [{"MAX_UPLOAD_MB": "1"}])
@pytest.mark.usefixtures("running")
def test_a_message_that_is_too_large_is_refused(rpc: RpcClient) -> None:
    assert rpc.ask("ModelInfer", **encoded(png(0) + bytes(MB - 5000))).outputs
    error = rpc.refused("ModelInfer", **encoded(png(0) + bytes(MB)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


BOMB = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.max_send_message_length", -1)])
try:
    channel.unary_unary(sys.argv[2])(bytes(200 << 20), timeout=60, compression=grpc.Compression.Gzip)
except grpc.RpcError as error:
    print(error.code().name, error.details())
"""
"""200 MB of zeros, which are 200 KB on the way."""


@pytest.mark.usefixtures("running")
def test_a_compressed_message_is_inflated_within_the_bound(rpc: RpcClient) -> None:
    request = pb.ModelInferRequest(**encoded(png(0)))
    assert rpc.method("ModelInfer")(request, timeout=20, compression=grpc.Compression.Gzip).outputs
    process = psutil.Process()
    before = process.memory_info().rss
    most = [before]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    bomb = subprocess.run(
        [sys.executable, "-c", BOMB, f"127.0.0.1:{rpc.port}", INFER],
        capture_output=True,
        text=True,
        check=True,
    )
    over.set()
    watcher.join()
    assert bomb.stdout == "RESOURCE_EXHAUSTED Decompressed message larger than max\n"
    assert most[0] - before < 100 * MB


@pytest.mark.parametrize("environment", [{"WEB_WORKERS": "1", "WEB_THREADS": "9"}])
def test_a_call_too_many_is_refused_and_health_is_still_told(
    rpc: RpcClient, server: RpcServer, service: Service
) -> None:
    # One request may be in flight here, and no worker runs yet.
    call = rpc.method("ModelInfer").future(pb.ModelInferRequest(**encoded(png(0))), timeout=20)
    eventually(lambda: server.calls.in_flight == 1)
    error = rpc.refused("ModelInfer", **encoded(png(0)))
    assert (error.code(), "in flight" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
    assert rpc.ask("ServerLive").live
    service.start_worker()
    assert call.result().outputs


@pytest.mark.parametrize("environment", [{"WEB_WORKERS": "1", "WEB_THREADS": "9"}])
@pytest.mark.usefixtures("running")
def test_calls_whose_message_does_not_come_lose_their_threads(rpc: RpcClient, server: RpcServer) -> None:
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait(30)
        yield b""

    callers = [
        threading.Thread(target=_ignoring, args=(rpc.channel.stream_unary(INFER), never())) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    eventually(lambda: server.calls.in_flight == 1)  # the others were refused
    assert rpc.refused("ModelInfer", **encoded(png(0))).code() is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: server.calls.in_flight == 0, within_s=10)
    assert rpc.ask("ModelInfer", **encoded(png(0))).outputs
    hold.set()
    for caller in callers:
        caller.join()


@pytest.mark.parametrize("environment", [{"WEB_WORKERS": "1", "WEB_THREADS": "9"}])
def test_more_calls_than_threads_are_refused_unread(rpc: RpcClient, server: RpcServer) -> None:
    hold = threading.Event()

    def never() -> Iterator[bytes]:
        hold.wait(30)
        yield b""

    live = rpc.channel.stream_unary("/inference.GRPCInferenceService/ServerLive")
    callers = [threading.Thread(target=_ignoring, args=(live, never())) for _ in range(9)]
    for caller in callers:
        caller.start()
    eventually(lambda: server.calls.in_flight == 9)
    assert rpc.refused("ServerLive").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Their time is over in 2 s.
    eventually(lambda: server.calls.in_flight == 0, within_s=10)
    assert rpc.ask("ServerLive").live
    hold.set()
    for caller in callers:
        caller.join()


def _ignoring(method: Callable[..., object], messages: Iterator[bytes]) -> None:
    with contextlib.suppress(grpc.RpcError):
        method(messages, timeout=30)


def test_the_memory_for_messages_is_bounded() -> None:
    memory = MessageMemory(largest=10, most=25)
    with memory.place() as first, memory.place():
        with pytest.raises(Overloaded), memory.place(wait_s=0.01):
            pass
        memory.shrink(first, 3)
        with memory.place(wait_s=0.01):
            pass
    with memory.place(wait_s=0), memory.place(wait_s=0):
        pass


def test_one_message_has_place_whatever_it_is() -> None:
    with MessageMemory(largest=100, most=25).place(wait_s=0):
        pass


class _Silent:
    """A call whose message does not come."""

    is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


@pytest.mark.parametrize("is_short", [True, False])
def test_a_call_without_a_message_gives_way_where_another_waits_for_memory(
    is_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "PRESSED_S", 0.5)
    memory = MessageMemory(largest=10, most=10)
    watch = ArrivalWatch(memory, patience_s=60)
    watch.start()
    silent = _Silent()
    with memory.place(), watch.watching(silent):
        waiting = threading.Thread(target=_wait_for_memory, args=(memory,))
        if is_short:
            waiting.start()
            eventually(lambda: silent.is_cancelled, within_s=10)
        else:
            time.sleep(2 * arrival.PRESSED_S)
            assert not silent.is_cancelled
    if is_short:
        waiting.join()
    watch.stop()


def test_a_message_that_takes_two_seconds_comes_although_another_waits() -> None:
    memory = MessageMemory(largest=10, most=10)
    watch = ArrivalWatch(memory)
    watch.start()
    slow = _Silent()
    with memory.place():
        waiting = threading.Thread(target=_wait_for_memory, args=(memory,))
        waiting.start()
        with watch.watching(slow):
            time.sleep(2.5)
    assert not slow.is_cancelled
    waiting.join()
    watch.stop()


def _wait_for_memory(memory: MessageMemory) -> None:
    with memory.place(wait_s=30):
        pass


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 5000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 5000,
        b"\xff" * 100_000,
    ],
    ids=["HTTP/1.1", "TLS", "no frames", "settings", "bytes"],
)
def test_what_is_not_grpc_ends_its_connection_and_nothing_else(rpc: RpcClient, sent: bytes) -> None:
    for _ in range(20):
        peer = socket.create_connection(("127.0.0.1", rpc.port), timeout=10)
        with peer, contextlib.suppress(OSError):
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
    assert rpc.ask("ServerLive").live


@pytest.mark.parametrize("environment", [{"BIND": "::1"}])
def test_it_listens_on_an_address_of_version_6(server: RpcServer) -> None:
    with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        assert live(b"", timeout=10) == b"\x08\x01"
    assert is_closed(server.port)


def test_two_servers_do_not_share_a_port(server: RpcServer, redis_url: str) -> None:
    with pytest.raises(RuntimeError):
        RpcServer(Settings.from_env({"REDIS_URL": redis_url}), port=server.port)


def test_redis_away_is_said_at_once(own_redis: RedisServer, keys: Keys, tmp_path: Path) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        fakes.worker(client, keys, FakeEngine(), tmp_path)
    server = RpcServer(Settings.from_env({"REDIS_URL": own_redis.url, "MODELS": MODEL}), port=0)
    server.start()
    try:
        own_redis.stop(kill=True)
        with RpcClient(server.port) as rpc:
            began = time.monotonic()
            error = rpc.refused("ModelInfer", **encoded(png(0)))
            assert time.monotonic() - began < 3, error.details()
            assert (error.code(), "queue" in error.details()) == (grpc.StatusCode.UNAVAILABLE, True)
            assert not rpc.ask("ServerReady").ready
            eventually(lambda: rpc.ask("Check").status == 2)  # NOT_SERVING
    finally:
        server.stop(within_s=0)


def test_health_is_that_of_the_models(rpc: RpcClient, service: Service, server: RpcServer) -> None:
    services = [
        "",
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
    ]
    eventually(lambda: [rpc.ask("Check", service=name).status for name in services] == [2] * 4)
    service.start_worker()
    eventually(lambda: [rpc.ask("Check", service=name).status for name in services] == [1] * 4)
    assert rpc.refused("Check", service="other").code() is grpc.StatusCode.NOT_FOUND
    server.health.drain()
    assert rpc.ask("Check").status == 2


def test_who_watches_the_health_is_told_and_does_not_hold_up_the_end(
    rpc: RpcClient, service: Service, server: RpcServer
) -> None:
    watch = rpc.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    told: list[int] = []
    watching = threading.Thread(target=_collect, args=(watch(health_pb2.HealthCheckRequest()), told))
    watching.start()
    eventually(lambda: told == [2])
    service.start_worker()
    eventually(lambda: told == [2, 1])
    began = time.monotonic()
    server.stop(within_s=15)
    assert time.monotonic() - began < 5
    watching.join(timeout=5)
    assert told == [2, 1, 2]


def _collect(statuses: Iterator[health_pb2.HealthCheckResponse], told: list[int]) -> None:
    with contextlib.suppress(grpc.RpcError):
        for each in statuses:
            told.append(each.status)


def test_a_server_that_stops_answers_what_is_in_flight(
    rpc: RpcClient, service: Service, server: RpcServer
) -> None:
    call = rpc.method("ModelInfer").future(pb.ModelInferRequest(**encoded(png(255))), timeout=20)
    eventually(lambda: server.calls.in_flight == 1)
    stopping = threading.Thread(target=server.stop, kwargs={"within_s": 15})
    stopping.start()
    # Nobody new: the port is closed.
    eventually(lambda: is_closed(server.port))
    service.start_worker()
    assert call.result().outputs
    stopping.join(timeout=5)
    assert not stopping.is_alive()


def test_calls_are_counted_by_method_model_and_status(running: Service, rpc: RpcClient) -> None:
    def counts(**labels: str) -> float:
        return REGISTRY.get_sample_value("batchwire_grpc_calls_total", labels) or 0.0

    good = {"method": "ModelInfer", "model": MODEL, "code": "OK"}
    bad = {"method": "ModelInfer", "model": "", "code": "NOT_FOUND"}
    live = {"method": "ServerLive", "model": "", "code": "OK"}
    before = [counts(**each) for each in (good, bad, live)]
    assert running
    rpc.method("ModelInfer")(pb.ModelInferRequest(**encoded(png(0))), timeout=20)
    rpc.method("ServerLive")(pb.ServerLiveRequest(), timeout=20)
    with pytest.raises(grpc.RpcError):
        rpc.method("ModelInfer")(pb.ModelInferRequest(**(encoded(png(0)) | {"model_name": "no"})), timeout=20)
    # A call is counted once its answer has left.
    eventually(lambda: [counts(**each) for each in (good, bad, live)] == [count + 1 for count in before])
