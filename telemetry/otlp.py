"""Records spans and exports them by OTLP over HTTP, in batches, in a thread of its own.

Owns OpenTelemetry's SDK: its resource, its one processor, its end, and what the log says of a collector that
is away. The SDK reads its own variables (OTEL_...). Nobody imports this module but tracing.py, and only where
tracing is on.
"""

import logging
import os
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from telemetry import tracing
from telemetry.tracing import Attributes, Kind, Span

_LOG: Final = logging.getLogger(__name__)

_NS: Final = 1e9

_KINDS: Final = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.PRODUCER: SpanKind.PRODUCER,
    Kind.CONSUMER: SpanKind.CONSUMER,
}

_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Recorder:
    """Makes spans. `stop` at the process' end; it may be used from any thread."""

    def __init__(self, service: str) -> None:
        self.now: Callable[[], float] = tracing.host_time
        """Seconds since 1970."""
        own: dict[str, str | int] = {"service.name": service, "process.pid": os.getpid()}
        # What the variables say counts more than the usual name.
        resource = Resource.create({}).merge(Resource(own)).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_QuietExporter(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("batchwire")
        # The exporter below says what there is to say of a collector; this one would for each batch. That the
        # queue of spans is full, the processor says every 20 s at most.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        # What is wrong with a client's traceparent or tracestate is nothing for the operator's log.
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
        logging.getLogger("urllib3").setLevel(max(logging.INFO, logging.getLogger().level))

    def begin(
        self,
        name: str,
        parent: str | None,
        attributes: Attributes | None,
        *,
        tracestate: str,
        kind: Kind,
        at: float | None,
        links: Sequence[Span],
    ) -> Span:
        """See tracing.begin."""
        header = {"traceparent": parent or "", "tracestate": tracestate}
        context = _PROPAGATOR.extract(header, Context()) if parent else Context()
        return self.start(
            name, context, attributes, kind=kind, at=self.now() if at is None else at, links=links
        )

    def start(
        self,
        name: str,
        context: Context,
        attributes: Attributes | None,
        *,
        kind: Kind,
        at: float,
        links: Sequence[Span] = (),
    ) -> Span:
        """A span whose parent is in that context; the sampler says whether it is recorded."""
        span = self._tracer.start_span(
            name,
            context,
            _KINDS[kind],
            attributes,
            [Link(each.otel.get_span_context()) for each in links if isinstance(each, RecordedSpan)],
            start_time=int(at * _NS),
        )
        made = RecordedSpan(self, span, at)
        return made if span.is_recording() else UnsampledSpan(made.traceparent)

    def stop(self, *, within_s: float) -> None:
        """Export what is left. A collector that is away keeps the process no longer than that."""
        ending = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(within_s)


class RecordedSpan(Span):
    """A span of the SDK's."""

    __slots__ = ("_at", "_recorder", "otel", "traceparent")

    is_recorded = True

    def __init__(self, recorder: Recorder, span: OtelSpan, at: float) -> None:
        self._recorder = recorder
        self._at = at
        self.otel: Final = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def child(
        self,
        name: str,
        attributes: Attributes | None = None,
        *,
        kind: Kind = Kind.INTERNAL,
        at: float | None = None,
    ) -> Span:
        """See Span."""
        context = set_span_in_context(self.otel, Context())
        # Redis' clock may have been set right by some milliseconds since the parent began.
        begins_at = max(self._at, self._recorder.now() if at is None else at)
        return self._recorder.start(name, context, attributes, kind=kind, at=begins_at)

    def rename(self, name: str) -> None:
        """See Span."""
        self.otel.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """See Span."""
        self.otel.set_attributes(attributes)

    def event(self, name: str, attributes: Attributes | None = None, *, at: float | None = None) -> None:
        """See Span."""
        if self.otel.is_recording():
            self.otel.add_event(name, attributes, int((self._recorder.now() if at is None else at) * _NS))

    def link(self, other: Span) -> None:
        """See Span."""
        if isinstance(other, RecordedSpan):
            self.otel.add_link(other.otel.get_span_context())

    def fail(self, code: str, message: str = "") -> None:
        """See Span."""
        self.otel.set_attribute("error.type", code)
        self.otel.set_status(Status(StatusCode.ERROR, message or None))

    def end(self, error: BaseException | None = None, *, at: float | None = None) -> None:
        """See Span."""
        if not self.otel.is_recording():
            return
        if error is not None:
            self.fail(str(getattr(error, "code", type(error).__name__)), str(error))
        self.otel.end(int(max(self._at, self._recorder.now() if at is None else at) * _NS))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(error)


class UnsampledSpan(Span):
    """A span of a trace that nobody records: other processes must not either."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent


class _QuietExporter(SpanExporter):
    """The exporter, which says once that the collector is away, and once that it is back."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter. In the processor's thread; an export that fails was tried for ten seconds."""
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _LOG.warning("traces are exported again; about %d spans were lost", self._lost)
            self._lost = 0
            return result
        if not self._lost:
            _LOG.warning(
                "traces can't be exported: spans are lost until a collector answers at "
                "OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        """See SpanExporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """See SpanExporter."""
        return self._exporter.force_flush(timeout_millis)
