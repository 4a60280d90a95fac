"""What a model server counts and measures for Prometheus.

Owns the names, the labels and the buckets. Decides nothing: the pipeline, the keeper and the loaders call
these functions.
"""

from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter, Enum, Gauge, Histogram

from broker.consumer import CompletedJob
from broker.messages import WorkerState
from broker.metrics import SECONDS, STAGE

_BATCH: Final = Histogram(
    "batchwire_batch_size",
    "Pictures in one call of a network.",
    ["model"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
)
_BATCHES: Final = Counter(
    "batchwire_batches",
    "Batches claimed, by why they were not larger: full, call_time, lanes, recovered or queue_empty.",
    ["model", "reason"],
)
_CALL: Final = Histogram(
    "batchwire_model_call_duration_seconds",
    "One batch's way through the model's own code and the network.",
    ["model"],
    buckets=SECONDS,
)
_JOBS: Final = Counter(
    "batchwire_jobs", "Jobs that ended: ok, cancelled, or the code of their error.", ["model", "outcome"]
)
_ATTEMPTS: Final = Counter(
    "batchwire_jobs_retried", "Jobs that ended after a worker was lost with them.", ["model"]
)
_DEAD: Final = Counter("batchwire_dead_letters", "Jobs that became dead letters.", ["model"])
_LOST: Final = Counter("batchwire_workers_lost", "Workers that this one found lost.", ["model"])
_RECOVERED: Final = Counter("batchwire_jobs_recovered", "Jobs of lost workers, put back.", ["model"])
_LEASE_LOST: Final = Counter("batchwire_leases_lost", "Leases of this process that lapsed.", ["model"])
_LOAD: Final = Gauge("batchwire_model_load_seconds", "How long the last load of a model took.", ["model"])
_STATE: Final = Enum(
    "batchwire_model_state",
    "The state of a model in this process.",
    ["model"],
    states=[state.value for state in WorkerState],
)


def begin(model: str) -> None:
    """Tell the rare counts of a model from 0 on: to Prometheus a count that begins with 1 is no increase."""
    for counter in (_ATTEMPTS, _DEAD, _LOST, _RECOVERED, _LEASE_LOST):
        counter.labels(model)


def claimed(
    model: str, jobs: int, *, most: int, batch_size: int, is_recovered: bool, is_shared: bool = False
) -> None:
    """A batch was claimed, of at most so many jobs: by BATCH_SIZE, by what its calls take, or for others."""
    if is_recovered:
        reason = "recovered"
    elif jobs < most:
        reason = "queue_empty"
    else:
        reason = "lanes" if is_shared else "full" if most == batch_size else "call_time"
    _BATCHES.labels(model, reason).inc()


def ran(model: str, pictures: int, *, call_s: float, formed_s: float) -> None:
    """A batch ran: so many pictures, after so many seconds from the claim to the call."""
    _BATCH.labels(model).observe(pictures)
    _CALL.labels(model).observe(call_s)
    batch, network = STAGE.labels(model, "batch"), STAGE.labels(model, "model")
    for _ in range(pictures):
        batch.observe(formed_s)
        network.observe(call_s)


def ended(model: str, outcomes: Sequence[CompletedJob]) -> None:
    """The jobs of a batch have ended, and their results are written."""
    queue = STAGE.labels(model, "queue")
    for outcome in outcomes:
        result = outcome.result
        if result is None:
            _JOBS.labels(model, "cancelled").inc()
            continue
        _JOBS.labels(model, result.error.code if result.error else "ok").inc()
        queue.observe(result.timings_ms.waiting / 1000)
        if result.attempts:
            _ATTEMPTS.labels(model).inc()
        if outcome.dead_reason:
            _DEAD.labels(model).inc()


def recovered(model: str, jobs: int) -> None:
    """A lost worker was found, and its jobs went back to the queue."""
    _LOST.labels(model).inc()
    _RECOVERED.labels(model).inc(jobs)


def lease_lost(model: str) -> None:
    """The lease of this process' worker has lapsed."""
    _LEASE_LOST.labels(model).inc()


def loaded(model: str, seconds: float) -> None:
    """A model was loaded, or failed to."""
    _LOAD.labels(model).set(seconds)


def state(model: str, now: WorkerState) -> None:
    """A model's newest worker in this process is in this state."""
    _STATE.labels(model).state(now.value)
