"""What became of each job of a batch: its result, or that it was dropped, or why it is a dead letter.

Owns the making of results from outputs and errors. Knows no Redis, no clock and no engine.
"""

from collections.abc import Callable

from msgspec import UNSET

from broker.consumer import CompletedJob
from broker.errors import ServiceError
from broker.messages import Failure, Result, TaskResult, Timings
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Outputs
from model_server.hooks.own_code import HookFailed
from model_server.serving.batching import BatchEntry
from model_server.tasks.task import ReadOptions

Read = Callable[[Outputs, ModelSpec, ReadOptions], TaskResult]
"""Reads a picture's outputs. Raises ServiceError."""


def completed(
    entry: BatchEntry,
    spec: ModelSpec,
    *,
    version: str,
    notice: str,
    claimed_at: float,
    timings: Timings,
    names: tuple[str, ...] = (),
    read: Read | None = None,
) -> CompletedJob:
    """Return what became of one job of a batch.

    `claimed_at` is Redis' time, `notice` the model's own, `names` those of its outputs. `read` reads them in
    place of the task, for a model with its own code.
    """
    job = entry.job
    if job is None and entry.error is None:
        return CompletedJob(entry.id)
    answer, error = _answer(entry, spec, names, read or spec.task.read)
    best = answer.predictions[0] if answer.predictions else None
    waiting_ms = max(0.0, claimed_at - job.accepted_at) * 1000 if job else 0.0
    result = Result(
        id=entry.id,
        model=spec.name,
        model_version=version,
        predictions=answer.predictions,
        values=answer.values,
        embedding=answer.embedding,
        image=answer.image,
        outputs=answer.outputs,
        result=answer.result,
        skeleton=answer.skeleton,
        scores=spec.task.scores(entry.outputs) if job and job.scores and not error else None,
        error=Failure(error.code, error.message) if error else None,
        notice="; ".join(filter(None, (job.notice if job else "", entry.notice, notice))),
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


def _answer(
    entry: BatchEntry, spec: ModelSpec, names: tuple[str, ...], read: Read
) -> tuple[TaskResult, ServiceError | None]:
    """What the outputs say, or why there is no answer."""
    if entry.job is None or entry.error is not None:
        return TaskResult(), entry.error
    try:
        return read(entry.outputs, spec, ReadOptions(entry.job.original_size, entry.job.top, names)), None
    except ServiceError as error:
        return TaskResult(), error
