"""A collector of OpenTelemetry: an HTTP server that keeps the spans that come by OTLP."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from telemetry import tracing
from tests.support.http_server import running
from tests.support.waiting import eventually

TRACE = "0af7651916cd43dd8448eb211c80319c"
CLIENT = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{CLIENT}-01"
"""A client's traceparent, and its parts."""

ERROR = 2
"""The code of a span's status."""


@dataclass(frozen=True)
class Seen:
    """A span as it came, and the service that sent it."""

    service: str
    proto: Any

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.proto.name)

    @property
    def id(self) -> str:
        """Its id, 16 digits."""
        return str(self.proto.span_id.hex())

    @property
    def parent(self) -> str:
        """The id of the span that it belongs to; empty: none."""
        return str(self.proto.parent_span_id.hex())

    @property
    def trace(self) -> str:
        """The id of its trace, 32 digits."""
        return str(self.proto.trace_id.hex())

    @property
    def times(self) -> tuple[int, int]:
        """Nanoseconds at which it began and ended."""
        return self.proto.start_time_unix_nano, self.proto.end_time_unix_nano

    @property
    def links(self) -> set[str]:
        """The ids of the spans that it is linked to."""
        return {link.span_id.hex() for link in self.proto.links}

    @property
    def events(self) -> list[str]:
        """What happened in it."""
        return [event.name for event in self.proto.events]

    @property
    def failed(self) -> bool:
        """Whether its status says so."""
        return bool(self.proto.status.code == ERROR)

    def attribute(self, name: str) -> Any:  # noqa: ANN401 - whatever it is
        """An attribute's value; None: it has no such."""
        for each in self.proto.attributes:
            if each.key == name:
                return getattr(each.value, each.value.WhichOneof("value"))
        return None


@dataclass
class Collector:
    """What came."""

    port: int = 0
    spans: list[Seen] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT should say."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, trace: str) -> list[Seen]:
        """The spans of a trace so far."""
        return [span for span in list(self.spans) if span.trace == trace]

    def named(self, trace: str, name: str) -> list[Seen]:
        """Those of them that are called so."""
        return [span for span in self.of(trace) if span.name == name]

    def each(self, trace: str, *names: str) -> list[Seen]:
        """The one span of each of these names, once all are here."""
        eventually(lambda: all(self.named(trace, name) for name in names), within_s=20)
        return [span for name in names for (span,) in [self.named(trace, name)]]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A context: a collector on this machine."""
    collector = Collector()
    changing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            with changing:
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                for resource in request.resource_spans:
                    told = {each.key: each.value.string_value for each in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        collector.spans += [Seen(told["service.name"], span) for span in scope.spans]
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        collector.port = server.server_port
        yield collector


def assert_in_order(chain: list[Seen]) -> None:
    """Each span is the child of the one before, and begins no sooner; none ends before it begins."""
    for parent, child in pairwise(chain):
        assert child.parent == parent.id, (parent.name, child.name)
        assert child.times[0] >= parent.times[0], (parent.name, child.name)
    assert all(span.times[0] <= span.times[1] for span in chain)


@contextmanager
def exporting(url: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A context: this process exports its spans there, and soon."""
    patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    patch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hidden")
    patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    tracing.start("under-test")
    try:
        yield
    finally:
        tracing.stop(within_s=5)
        for name in ("exporter", "trace"):
            logging.getLogger(f"opentelemetry.{name}").setLevel(logging.NOTSET)
