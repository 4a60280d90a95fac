"""The server of gRPC: its services, its bounds, and how it ends.

Owns the options of grpcio, each with its reason. __main__.py starts it.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from settings import Settings
from telemetry import tracing
from web import start
from web.polled_pipelines import PolledPipelines
from web.rpc import health, open_inference, tf_serving
from web.rpc.arrival import ARRIVAL_S
from web.rpc.calls import Calls
from web.rpc.health import ServiceHealth
from web.rpc.open_inference import OpenInferenceMethods
from web.rpc.tf_serving import TfServingMethods
from web.server import capacity

_CONNECTIONS: Final = 1200
"""As a web process has."""

_STREAMS: Final = 1024
"""Calls of a connection. An answer that its client does not read takes 21 KB: 20,000 had taken 430 MB."""

_HANDSHAKE_MS: Final = 5_000
"""A connection that has not said by then that it speaks HTTP/2 is closed; grpcio's own is two minutes."""

_PING_MS: Final = 30_000
_PONG_MS: Final = 10_000
"""A client that went without closing its connection is found out."""

_WINDOW_BYTES: Final = 256 * 1024
"""What gRPC reads of a message before a thread asks for it. By itself it reads the more the faster a client
is."""

_RESERVED: Final = capacity.RESERVED_THREADS

_SENT_S: Final = 0.5
"""For the last answers to leave, and then for those who watch the health."""


class RpcServer:
    """A server that listens once `start` is called; `stop` answers what is in flight."""

    def __init__(self, settings: Settings, *, port: int, patience_s: float = ARRIVAL_S) -> None:
        self.jobs = start.job_client(settings)
        requests = capacity.of(settings.web_workers, settings.web_threads).requests
        inference = start.inference(self.jobs, PolledPipelines(self.jobs, at_once=requests))
        largest = settings.max_upload_mb * start.MB
        self.calls = Calls(self.jobs, largest=largest, patience_s=patience_s)
        self._server = grpc.server(
            ThreadPoolExecutor(requests + _RESERVED, thread_name_prefix="call"),
            options=_options(settings, largest),
            maximum_concurrent_rpcs=requests + _RESERVED,
            interceptors=_interceptors(),
        )
        infer, predict = OpenInferenceMethods(inference), TfServingMethods(inference)
        services = {
            open_inference.SERVICE: infer.handlers(self.calls),
            tf_serving.PREDICTION_SERVICE: predict.prediction_handlers(self.calls),
            tf_serving.MODEL_SERVICE: predict.model_handlers(self.calls),
        }
        self.health = ServiceHealth(self.jobs, tuple(services))
        services[health.SERVICE] = self.health.handlers(self.calls)
        self.methods = frozenset(name for methods in services.values() for name in methods)
        """Their names, of all services."""
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        )
        host = f"[{settings.bind}]" if ":" in settings.bind else settings.bind
        self.port: int = self._server.add_insecure_port(f"{host}:{port}")

    def start(self) -> None:
        """Answer calls from now on."""
        self.jobs.replies.start()
        if self.jobs.api_keys is not None:
            self.jobs.api_keys.known.start()
        self.calls.start()
        self.health.start()
        self._server.start()

    def stop(self, *, within_s: float) -> None:
        """Take no more calls, answer those in flight, for `within_s` at most, and end."""
        self.health.drain()
        end_by = time.monotonic() + within_s
        stopped = self._server.stop(within_s)
        # Who watches the health would keep the server until the end of that time.
        while self.calls.in_flight and time.monotonic() < end_by:
            stopped.wait(0.05)
        stopped.wait(_SENT_S)
        self._server.stop(None)
        self.calls.stop()
        self.jobs.replies.stop()
        if self.jobs.api_keys is not None:
            self.jobs.api_keys.known.stop()


def _interceptors() -> list[grpc.ServerInterceptor]:
    if not tracing.is_on():
        return []
    from web.rpc.call_spans import CallSpans  # noqa: PLC0415 - only where it is used

    return [CallSpans()]


def _options(settings: Settings, largest: int) -> list[tuple[str, Any]]:
    idle_ms = settings.keepalive_s * 1000
    return [
        # Two servers that share a port would each get some of the calls, and nobody be told.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", _CONNECTIONS),
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.max_connection_idle_ms", idle_ms),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", _PONG_MS),
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        ("grpc.http2.bdp_probe", 0),
    ]
