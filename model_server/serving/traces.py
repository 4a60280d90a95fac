"""The spans of a batch, where tracing is on: written once it is completed, from times that were noted anyway.

Owns which spans there are. Each job has `queue`, from when it was accepted to its claim, and `process`, from
there to its result, both children of the span that sent it. The batch has `batch`, with the call of the
network and the completion in it: it belongs to the trace of its first job, and is linked to every job's
`process`, as OpenTelemetry's conventions for messages have it. Knows no Redis. Nothing here may fail a batch.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from broker import codec
from broker.consumer import CompletedJob
from broker.errors import MalformedMessage
from model_server.catalogue.model_spec import ModelSpec
from model_server.serving.batching import Batch, BatchEntry
from telemetry import tracing
from telemetry.tracing import Kind, Span

_LOG: Final = logging.getLogger(__name__)

_APART_S: Final = 1.0
"""What processes' notions of Redis' time may differ by: half a round trip, at most half REDIS_TIMEOUT_S."""


@dataclass(frozen=True, slots=True)
class BatchTrace:
    """What the spans of a batch tell."""

    batch: Batch
    spec: ModelSpec
    outcomes: Sequence[CompletedJob]
    began: float
    ran_at: float
    """Monotonic, as `began`: the call of the network."""
    sent: Sequence[tuple[int, str, float]]
    """Each traced job's place in the batch, its parent, and when it was accepted."""

    def write(self, *, began: float, is_left: bool) -> None:
        """Write the spans; `began` is the completion. `is_left`: others run the batch, its lease was lost."""
        try:
            self._write(began + self.batch.offset_s, is_left=is_left)
        except Exception:  # noqa: BLE001 - a batch that is completed must not seem to have failed
            _LOG.exception("the spans of a batch were not written. This is a bug")

    def _write(self, completion_at: float, *, is_left: bool) -> None:
        batch, model = self.batch, self.spec.name
        now, offset_s = time.monotonic() + batch.offset_s, batch.offset_s
        # Processes' notions of Redis' time differ by half a round trip: no job is claimed before it came.
        claimed_at = max(batch.claimed_at, *(accepted_at for _, _, accepted_at in self.sent))
        spans = [self._job(batch.entries[place], parent, at, claimed_at) for place, parent, at in self.sent]
        attributes: dict[str, str | int] = {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": model,
            "messaging.batch.message_count": len(batch.entries),
            "messaging.client.id": batch.shares[0].worker,
            "batchwire.model_version": self.spec.version,
        }
        whole = tracing.begin(
            f"batch {model}",
            spans[0].traceparent,
            attributes,
            kind=Kind.CONSUMER,
            at=claimed_at,
            links=spans,
        )
        engine = {"batchwire.engine": self.spec.engine, "batchwire.precision": self.spec.precision}
        whole.child(f"model {model}", engine, at=self.began + offset_s).end(at=self.ran_at + offset_s)
        whole.child("complete", at=completion_at).end(at=now)
        for span, (place, _, _) in zip(spans, self.sent, strict=True):
            span.link(whole)
            if is_left:
                span.fail("lease_lost", "The lease lapsed: others run the job.")
            else:
                _tell(span, batch.entries[place], self.outcomes[place])
            span.end(at=now)
        whole.end(at=now)

    def _job(self, entry: BatchEntry, parent: str, accepted_at: float, claimed_at: float) -> Span:
        """The span of a job's run; that of its wait is written."""
        model = self.spec.name
        tracing.begin(f"queue {model}", parent, at=accepted_at).end(at=claimed_at)
        attributes: dict[str, str | int] = {
            "messaging.system": "redis",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": model,
            "messaging.message.id": entry.id,
            "batchwire.attempts": entry.attempts,
            "batchwire.batch_size": entry.batch_size,
        }
        if entry.job is not None and entry.job.request_id:
            attributes["batchwire.request_id"] = entry.job.request_id
        return tracing.begin(f"process {model}", parent, attributes, kind=Kind.CONSUMER, at=claimed_at)


def of(
    batch: Batch, spec: ModelSpec, outcomes: Sequence[CompletedJob], *, began: float, ran_at: float
) -> BatchTrace | None:
    """What there is to write of a batch that ran.

    None where tracing is off, or no job of it is of a sampled trace.
    """
    if not tracing.is_on():
        return None
    sent = []
    for place, entry in enumerate(batch.entries):
        accepted_at, parent = 0.0, None
        if entry.job is not None:
            accepted_at, parent = entry.job.accepted_at, entry.job.traceparent
        elif entry.payload:
            with contextlib.suppress(MalformedMessage):
                accepted_at, parent = codec.trace_of(entry.payload)
        if parent and tracing.is_sampled(parent):
            # A job may say what it likes: a time that no span can have would cost all spans beside it.
            sent.append((place, parent, min(max(accepted_at, 0.0), batch.claimed_at + _APART_S)))
    return BatchTrace(batch, spec, outcomes, began, ran_at, sent) if sent else None


def _tell(span: Span, entry: BatchEntry, outcome: CompletedJob) -> None:
    if entry.attempts:
        span.event("recovered from a lost worker", {"batchwire.attempts": entry.attempts})
    if outcome.result is None:
        span.event("dropped: its client has gone")
    elif outcome.result.error is not None:
        span.fail(outcome.result.error.code, outcome.result.error.message)
    if outcome.dead_reason:
        span.event("dead letter", {"batchwire.reason": outcome.dead_reason})
