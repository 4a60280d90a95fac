"""From claimed jobs to the batch that runs, and the search for the job that spoils one.

Owns pure functions only: no Redis, no clock, no engine. What is past its deadline, cancelled, worn out
or unreadable never reaches the network.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from broker import codec
from broker.consumer import ClaimedJob
from broker.errors import DeadlinePassed, InferenceFailed, MalformedMessage, ServiceError, first_line
from broker.messages import InputSpec, Job, owner_of
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines.engine import Outputs
from model_server.hooks.own_code import HookFailed, HookLost, HookRestarting
from model_server.serving.queue_parts import BatchShare
from pictures import refit

_LATE: Final = "The picture waited for a model server until its deadline."


@dataclass(slots=True)
class BatchEntry:
    """A claimed job on its way through a batch: it ends with outputs, with an error, or dropped."""

    id: str
    attempts: int
    job: Job | None = None
    """None: dropped, or it could not be read."""
    late_at: float = math.inf
    """Monotonic time of the job's deadline: no step of Redis' clock since the claim makes it late."""
    prepared: NDArray[Any] | None = None
    """What the network takes, if the model's own code makes it from the picture."""
    outputs: Outputs = ()
    """The network's outputs for this picture alone, without the batch axis."""
    error: ServiceError | None = None
    is_poison: bool = False
    """Whether it belongs into `dead`."""
    batch_size: int = 0
    notice: str = ""
    """What its answer must say."""
    payload: bytes = b""
    """Of a job that was dropped undecoded: its trace may be wanted."""
    owner: str = ""
    """Whose job it is, where the rest of it can't be read."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Every job of one claim, in claim order, decoded: it waits for the device."""

    entries: list[BatchEntry]
    claimed_at: float
    """Redis' time."""
    began: float
    """Monotonic time at which the claim began."""
    waited_s: float
    """Seconds that its pictures were in the queue, on average."""
    runs_alone: bool
    """A job that a lost worker had may be what killed it: it must not take others along."""
    may_have_spans: bool = False
    """A job has a traceparent, or was dropped undecoded and may have one."""
    offset_s: float = 0.0
    """Redis' time less the monotonic when it was claimed."""
    shares: tuple[BatchShare, ...] = ()
    """Where its jobs come from, in their order."""


def wait_left_s(waiting: int, size: int, *, seen: float, now: float, wait_s: float) -> float:
    """Seconds for which a batch should still wait to fill up; 0: cut it now.

    `waiting` pictures are in the queue, the first of which was seen at `seen`; a batch holds `size`.
    `seen` and `now` are of one clock, in seconds.
    """
    if waiting == 0 or waiting >= size:
        return 0.0
    return max(0.0, seen + wait_s - now)


def form(
    claimed: Sequence[ClaimedJob],
    spec: ModelSpec,
    *,
    began: float,
    now: float,
    max_attempts: int,
    offset_s: float = 0.0,
    shift_s: Callable[[float], float] | None = None,
    shares: tuple[BatchShare, ...] = (),
) -> Batch:
    """Decode a claim and judge each job of it. `now` is Redis' time in seconds, `began` monotonic.

    `shift_s` is RedisClock's; None: that clock has not stepped. For `offset_s` and `shares` see Batch.
    A picture for another input is taken only if the task finds no places in it, or scaling leaves them as
    they are.
    """
    entries = [_judge(claim, spec, now=now, max_attempts=max_attempts, shift_s=shift_s) for claim in claimed]
    waited: list[float] = []
    for entry in entries:
        if entry.job is not None:
            entry.late_at = entry.job.deadline - offset_s
            waited.append(now - entry.job.accepted_at)
    return Batch(
        entries,
        claimed_at=now,
        began=began,
        waited_s=max(0.0, sum(waited) / len(waited)) if waited else 0.0,
        runs_alone=any(entry.attempts for entry in entries),
        may_have_spans=any(entry.payload or (entry.job and entry.job.traceparent) for entry in entries),
        offset_s=offset_s,
        shares=shares,
    )


def _judge(
    claim: ClaimedJob,
    spec: ModelSpec,
    *,
    now: float,
    max_attempts: int,
    shift_s: Callable[[float], float] | None,
) -> BatchEntry:
    entry = BatchEntry(claim.id, claim.attempts)
    if not claim.pending:
        entry.payload = claim.payload
        return entry
    try:
        job = codec.decode_job(claim.payload)
        if shift_s is not None and (by_s := shift_s(job.accepted_at)):
            job = replace(job, accepted_at=job.accepted_at + by_s, deadline=job.deadline + by_s)
        entry.job = job
    except MalformedMessage as error:
        entry.error = InferenceFailed(
            "The job can't be read; the model server's log says why.",
            detail=f"The job can't be read: {error.detail}.",
        )
        entry.owner = owner_of(codec.lane_of(claim.payload))
        entry.is_poison = True
        return entry
    if claim.attempts >= max_attempts:
        entry.error = InferenceFailed(
            f"Each of {claim.attempts} model servers that ran this picture was lost."
        )
        entry.is_poison = True
    elif job.deadline <= now:
        entry.error = DeadlinePassed(_LATE)
    elif job.input not in ("", spec.input.tag):
        _refit(entry, job, spec.input, only_places=spec.task.has_places)
    elif job.image.shape != spec.input.shape:
        entry.error = InferenceFailed(
            f"The job's picture is {job.image.shape}; this model takes {spec.input.shape}."
        )
        entry.is_poison = True
    return entry


def _refit(entry: BatchEntry, job: Job, spec: InputSpec, *, only_places: bool) -> None:
    """Make a picture fit that was prepared for another version of the model, none of which is left."""
    if only_places and not refit.keeps_places(job.input, job.image.shape, spec):
        entry.error = InferenceFailed(
            "The picture was prepared for an earlier version of the model, which is gone: send it again."
        )
        return
    entry.job = replace(job, image=refit.refit(job.image, spec), input=spec.tag)
    entry.notice = refit.NOTICE


def _long_ago() -> float:
    return 0.0


def prepare(
    entries: Sequence[BatchEntry],
    preprocess: Callable[[NDArray[np.uint8]], NDArray[Any]],
    *,
    now: Callable[[], float] = _long_ago,
) -> None:
    """Let the model's own code prepare each picture; one on which it fails gets its error.

    `now` is monotonic: what has waited past its deadline, behind pictures that hang, is not prepared.
    """
    for entry in entries:
        if entry.job is None or entry.error is not None:
            continue
        if entry.late_at <= now():
            entry.error = DeadlinePassed(_LATE)
            continue
        try:
            entry.prepared = preprocess(entry.job.image)
        except ServiceError as error:
            _fail(entry, error)


def run(
    entries: Sequence[BatchEntry],
    predict: Callable[[NDArray[Any]], Outputs],
    *,
    now: Callable[[], float] = _long_ago,
) -> int:
    """Run the network once on all that are neither dropped nor failed; where that raises, on halves.

    So the bad job stands alone at last: n jobs with one bad cost at most 2 log2(n) + 1 calls more. Where the
    model's own process was lost, one by one: each further failure costs its time limit and a restart. What is
    past its deadline by `now`, which is monotonic, is not run: a batch may have waited for the device since
    it was claimed (with a network of 100 ms a picture and three times its load, 18 of 20 pictures were run
    for nobody). Each entry gets its outputs or an error. Returns how many pictures there were.
    """
    moment, live, pictures = now(), list[BatchEntry](), list[NDArray[Any]]()
    for entry in entries:
        if entry.job is None or entry.error is not None:
            continue
        if entry.late_at <= moment:
            entry.error = DeadlinePassed(_LATE)
            continue
        live.append(entry)
        pictures.append(entry.job.image if entry.prepared is None else entry.prepared)
    if not live:
        return 0
    batch = np.stack(pictures)
    try:
        outputs = predict(batch)
        for output in outputs:
            if output.shape[:1] != (len(live),):
                raise ValueError(f"the network gave {output.shape} for {len(live)} pictures")
    except Exception as error:  # noqa: BLE001 - whatever a network raises costs only the job at fault
        if len(live) == 1:
            _fail(live[0], error)
            return 1
        if isinstance(error, HookLost):
            return sum(run([entry], predict, now=now) for entry in live)
        middle = len(live) // 2
        return run(live[:middle], predict, now=now) + run(live[middle:], predict, now=now)
    for row, entry in enumerate(live):
        entry.outputs = tuple(output[row] for output in outputs)
        entry.batch_size = len(live)
    return len(live)


def _fail(entry: BatchEntry, error: Exception) -> None:
    if isinstance(error, HookFailed | HookRestarting):
        entry.error = error
        # While the process is being restarted no picture is at fault.
        entry.is_poison = isinstance(error, HookFailed)
        return
    entry.error = InferenceFailed(
        "The model failed on this picture; the model server's log says why.",
        detail=f"The model failed on this picture ({type(error).__name__}: {first_line(error)}).",
    )
    entry.is_poison = True
