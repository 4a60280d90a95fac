"""What became of each job of a batch: its result, or that it was dropped, or why it is a dead letter.

Owns the making of results from outputs and errors. Knows no Redis, no clock and no engine.
"""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import UNSET

from broker.consumer import CompletedJob
from broker.errors import ServiceError
from broker.messages import Failure, Result, TaskResult, Timings
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.engine import Outputs
from model_server.hooks.own_code import HookFailed
from model_server.serving.batching import BatchEntry
from model_server.tasks.task import ReadOptions

Read = Callable[[Outputs, ModelSpec, ReadOptions], TaskResult]
"""Reads a picture's outputs. Raises ServiceError."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the results of a model's jobs have in common."""

    spec: ModelSpec
    version: str
    notice: str = ""
    """What each of its answers must say."""
    names: tuple[str, ...] = ()
    """Those of the network's outputs."""
    read: Read | None = None
    """Reads outputs in place of the task, for a model with its own code."""


def completed(entry: BatchEntry, model: ServedModel, *, claimed_at: float, timings: Timings) -> CompletedJob:
    """Return what became of one job of a batch. `claimed_at` is Redis' time."""
    job, spec, error, answer = entry.job, model.spec, entry.error, TaskResult()
    if job is None and error is None:
        return CompletedJob(entry.id)
    if job is not None and error is None:
        options = ReadOptions(job.original_size, job.top, model.names)
        try:
            answer = (model.read or spec.task.read)(entry.outputs, spec, options)
        except ServiceError as failure:
            error = failure
    best = answer.predictions[0] if answer.predictions else None
    waiting_ms = max(0.0, claimed_at - job.accepted_at) * 1000 if job else 0.0
    result = Result(
        id=entry.id,
        model=spec.name,
        model_version=model.version,
        predictions=answer.predictions,
        values=answer.values,
        embedding=answer.embedding,
        image=answer.image,
        outputs=answer.outputs,
        result=answer.result,
        skeleton=answer.skeleton,
        scores=spec.task.scores(entry.outputs) if job and job.scores and not error else None,
        error=Failure(error.code, error.message) if error else None,
        notice="; ".join(filter(None, (job.notice if job else "", entry.notice, model.notice))),
        timings_ms=Timings(round(waiting_ms, 3), round(timings.batch, 3), round(timings.model, 3)),
        batch_size=entry.batch_size,
        attempts=entry.attempts,
        engine=spec.engine,
        precision=spec.precision,
        best_index=spec.indices.get((best.class_id, best.label)) if best else None,
        owner=(job.owner if job and job.lane else entry.owner) or UNSET,
    )
    is_poison = entry.is_poison or isinstance(error, HookFailed)  # in postprocess, too
    reason = error.detail if error is not None and is_poison else ""
    if job is None:
        return CompletedJob(entry.id, result, dead_reason=reason)
    return CompletedJob(entry.id, result, job.reply_to, reason, job.request_id, job.traceparent)
