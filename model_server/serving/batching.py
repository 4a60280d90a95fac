"""From claimed jobs to the batch that runs, and the search for the job that spoils one.

Owns pure functions only: no Redis, no clock, no engine. What is past its deadline, cancelled, worn out
or unreadable never reaches the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from broker import codec
from broker.consumer import ClaimedJob
from broker.errors import DeadlinePassed, InferenceFailed, MalformedMessage, ServiceError, first_line
from broker.messages import InputSpec, Job
from model_server.engines import Outputs
from pictures import refit


@dataclass(slots=True)
class BatchEntry:
    """A claimed job on its way through a batch: it ends with outputs, with an error, or dropped."""

    id: str
    attempts: int
    job: Job | None = None
    """None: dropped, or it could not be read."""
    outputs: Outputs = ()
    """The network's outputs for this picture alone, without the batch axis."""
    error: ServiceError | None = None
    is_poison: bool = False
    """Whether it belongs into `dead`."""
    batch_size: int = 0
    notice: str = ""
    """What its answer must say."""


@dataclass(slots=True)
class Batch:
    """Every job of one claim, in claim order; those in `runnable` go through the network."""

    entries: list[BatchEntry] = field(default_factory=list)

    @property
    def runnable(self) -> list[BatchEntry]:
        """The entries that the network should see."""
        return [entry for entry in self.entries if entry.job is not None and entry.error is None]


@dataclass(frozen=True, slots=True)
class FormedBatch:
    """A claim, decoded: it waits for the device."""

    worker: str
    """The id under which it was claimed."""
    batch: Batch
    claimed_at: float
    """Redis' time."""
    began: float
    """Monotonic time at which the claim began."""

    @property
    def runs_alone(self) -> bool:
        """A job that a lost worker had may be what killed it: it must not take others along."""
        return any(entry.attempts for entry in self.batch.entries)

    @property
    def waited_s(self) -> float:
        """Seconds that its pictures were in the queue, on average."""
        waited = [self.claimed_at - entry.job.accepted for entry in self.batch.entries if entry.job]
        return max(0.0, sum(waited) / len(waited)) if waited else 0.0

    def __len__(self) -> int:
        return len(self.batch.entries)


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
    spec: InputSpec,
    *,
    now: float,
    max_attempts: int,
    only_places: bool = False,
) -> Batch:
    """Decode a claim and judge each job of it. `now` is Redis' time in seconds.

    `only_places`: a picture for another input is taken only if places in it stay the same when it is scaled.
    """
    return Batch(
        [
            _judge(claim, spec, now=now, max_attempts=max_attempts, only_places=only_places)
            for claim in claimed
        ]
    )


def _judge(
    claim: ClaimedJob, spec: InputSpec, *, now: float, max_attempts: int, only_places: bool
) -> BatchEntry:
    entry = BatchEntry(claim.id, claim.attempts)
    if not claim.pending:
        return entry
    try:
        entry.job = job = codec.decode_job(claim.payload)
    except MalformedMessage as error:
        entry.error = InferenceFailed(f"The job can't be read: {error.message}.")
        entry.is_poison = True
        return entry
    if claim.attempts >= max_attempts:
        entry.error = InferenceFailed(
            f"Each of {claim.attempts} model servers that ran this picture was lost."
        )
        entry.is_poison = True
    elif job.deadline <= now:
        entry.error = DeadlinePassed("The picture waited for a model server until its deadline.")
    elif job.input not in ("", spec.tag):
        _refit(entry, job, spec, only_places=only_places)
    elif job.image.shape != spec.shape:
        entry.error = InferenceFailed(
            f"The job's picture is {job.image.shape}; this model takes {spec.shape}."
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


def run(entries: Sequence[BatchEntry], predict: Callable[[NDArray[np.uint8]], Outputs]) -> None:
    """Run the network once on all; where that raises, on halves, until the bad job stands alone.

    Each entry gets its outputs or an InferenceFailed; n jobs with one bad cost at most 2 log2(n) + 1
    calls more.
    """
    if not entries:
        return
    pictures = np.stack([entry.job.image for entry in entries if entry.job is not None])
    try:
        outputs = predict(pictures)
        _check(outputs, len(entries))
    except Exception as error:  # noqa: BLE001 - whatever a network raises costs only the job at fault
        if len(entries) == 1:
            entries[0].error = InferenceFailed(
                f"The model failed on this picture ({type(error).__name__}: {first_line(error)})."
            )
            entries[0].is_poison = True
            return
        middle = len(entries) // 2
        run(entries[:middle], predict)
        run(entries[middle:], predict)
        return
    for row, entry in enumerate(entries):
        entry.outputs = tuple(output[row] for output in outputs)
        entry.batch_size = len(entries)


def _check(outputs: Outputs, rows: int) -> None:
    for output in outputs:
        if output.shape[:1] != (rows,):
            raise ValueError(f"the network gave {output.shape} for {rows} pictures")
