"""What became of each job of a batch: its result, or that it was dropped, or why it is a dead letter.

Owns the making of results from outputs and errors. Pure: no Redis, no clock, no engine.
"""

from broker.consumer import CompletedJob
from broker.errors import ServiceError
from broker.messages import Failure, Result, TaskResult, Timings
from model_server.catalogue.model_spec import ModelSpec
from model_server.serving.batching import BatchEntry
from model_server.tasks.task import ReadOptions


def completed(
    entry: BatchEntry,
    spec: ModelSpec,
    *,
    version: str,
    notice: str,
    claimed_at: float,
    timings: Timings,
    names: tuple[str, ...] = (),
) -> CompletedJob:
    """Return what became of one job of a batch.

    `claimed_at` is Redis' time, `notice` the model's own, `names` those of its outputs.
    """
    job = entry.job
    if job is None and entry.error is None:
        return CompletedJob(entry.id)
    answer = TaskResult()
    error = entry.error
    if job is not None and error is None:
        try:
            answer = spec.task.read(entry.outputs, spec, ReadOptions(job.original_size, job.top, names))
        except ServiceError as failed:
            error = failed
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
        error=Failure(error.code, error.message) if error else None,
        notice="; ".join(filter(None, (job.notice if job else "", entry.notice, notice))),
        timings_ms=Timings(round(waiting_ms, 3), round(timings.batch, 3), round(timings.model, 3)),
        batch_size=entry.batch_size,
        attempts=entry.attempts,
        engine=spec.engine,
        precision=spec.precision,
        best_index=spec.indices[best.class_id, best.label] if best else None,
    )
    reason = error.message if error is not None and entry.is_poison else ""
    if job is None:
        return CompletedJob(entry.id, result, dead_reason=reason)
    return CompletedJob(entry.id, result, job.reply_to, reason, job.request_id)
