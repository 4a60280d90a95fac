"""What tests put in the place of a network, a clock and the parts around a queue.

The parts of a tier have that tier's rights in Redis (deploy/redis/users.acl).
"""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import redis
from numpy.typing import NDArray

from broker import codec
from broker.clock import RedisClock
from broker.consumer import Consumer
from broker.keys import SHARD_MASK, Keys, shard_bits
from broker.lease import Lease
from broker.messages import Card, Fit, InputSpec, Job, Label, Result, State, WorkerState
from broker.producer import Limits, Producer
from model_server.catalogue.model_spec import KerasFile, ModelSpec
from model_server.engines.engine import Engine, OutputNames, Outputs
from model_server.serving.device import Device
from model_server.serving.pipeline import WorkerLimits
from model_server.serving.worker import Worker
from model_server.tasks import TASKS
from tests.support.redis_server import client_of

MODEL = "tiny"
SPEC = InputSpec(width=2, height=2, channels=1, fit=Fit.STRETCH)
CARD = Card(
    model=MODEL,
    task="classification",
    input=SPEC,
    classes=3,
    top=2,
    top_max=3,
    engine="fake",
    precision="fp32",
    weights="none",
    model_version="v1",
)
LABELS = (Label("0", "dark"), Label("1", "grey"), Label("2", "bright"))
READY = State(WorkerState.READY, "v1")
KEY_TTL_S = 3600
RESULT_TTL_S = 60
LIMITS = Limits(queue_jobs=100, queue_bytes=10_000_000, result_ttl_s=RESULT_TTL_S, key_ttl_s=KEY_TTL_S)


class FakeClock:
    """A monotonic clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEngine:
    """Runs `network`, by default `shades`; `on_batch` may interfere."""

    name = "fake"
    precision = "fp32"
    outputs = OutputNames()

    def __init__(self, on_batch: Callable[[NDArray[np.uint8]], object] = len) -> None:
        self.on_batch = on_batch
        self.batches: list[int] = []
        self.network: Callable[[NDArray[np.uint8]], Outputs] = shades

    def predict(self, batch: NDArray[np.uint8]) -> Outputs:
        self.batches.append(len(batch))
        self.on_batch(batch)
        return self.network(batch)


def shades(batch: NDArray[np.uint8]) -> Outputs:
    """Three classes: dark, grey and bright."""
    brightness = batch.reshape(len(batch), -1).mean(axis=1) / 255
    return (np.eye(3, dtype=np.float32)[np.minimum((brightness * 3).astype(int), 2)],)


def job(
    *,
    value: int = 0,
    deadline_in_s: float = 60.0,
    reply_to: str | None = None,
    shape: tuple[int, int, int] = SPEC.shape,
    now: float | None = None,
) -> Job:
    """A job whose picture is all `value`."""
    accepted = time.time() if now is None else now
    return Job(
        id=str(uuid.uuid4()),
        image=np.full(shape, value, np.uint8),
        accepted_at=accepted,
        deadline=accepted + deadline_in_s,
        reply_to=reply_to,
        original_size=(20, 10),
        top=2,
        traceparent=None,
    )


def in_shard(job_id: str, shard: int | None) -> str:
    """The same id, of a job in this shard."""
    value = uuid.UUID(job_id).int & ~(0xF << 76 | SHARD_MASK)
    return str(uuid.UUID(int=value | 0x8 << 76 | shard_bits(shard)))


def lease(client: redis.Redis, keys: Keys, *, lease_s: float = 30.0, card: Card | None = None) -> Lease:
    """A lease of the tiny model, not yet registered."""
    return Lease(
        client_of(client, "model_server"),
        keys,
        card or CARD,
        labels=LABELS,
        lease_s=lease_s,
        key_ttl_s=KEY_TTL_S,
        clock=RedisClock(),
    )


def consumer(
    client: redis.Redis, keys: Keys, model: str = MODEL, *, keeps_dead_pictures: bool = True
) -> Consumer:
    """A consumer of the tiny model, or of another."""
    return Consumer(
        client_of(client, "model_server"),
        keys,
        model,
        key_ttl_s=KEY_TTL_S,
        result_ttl_s=RESULT_TTL_S,
        keeps_dead_pictures=keeps_dead_pictures,
    )


def producer(client: redis.Redis, keys: Keys, limits: Limits = LIMITS) -> Producer:
    """A producer over the same Redis."""
    return Producer(client_of(client, "web"), keys, limits)


def worker(
    client: redis.Redis,
    keys: Keys,
    engine: FakeEngine,
    folder: Path,
    *,
    lease_s: float = 30.0,
    changes: Mapping[str, object] | None = None,
    shards: int = 1,
) -> Worker:
    """A registered worker of the tiny model, whose spec may have `changes`; its thread is the caller's."""
    changed = replace(spec(folder), **dict(changes or {}))  # type: ignore[arg-type] # any of its fields
    made = unregistered_worker(client, keys, changed, lambda: engine, lease_s=lease_s, shards=shards)
    made.registration.ensure()
    return made


def spec(folder: Path) -> ModelSpec:
    """The tiny model, with its version from the files of `folder`."""
    return ModelSpec(
        name=MODEL,
        folder=folder,
        task=TASKS["classification"],
        source=KerasFile("none"),
        input=SPEC,
        normalise="none",
        labels=LABELS,
        top=2,
        engine="fake",
        precision="fp32",
    )


def unregistered_worker(
    client: redis.Redis,
    keys: Keys,
    spec: ModelSpec,
    load: Callable[[], Engine],
    *,
    lease_s: float = 30.0,
    shards: int = 1,
) -> Worker:
    """A worker of the tiny model, or of the one that `spec` names, before its `run`."""
    card = spec.card() if spec.name != MODEL else replace(CARD, task=spec.task.name, shards=shards)
    return Worker(
        spec,
        load,
        lease(client, keys, lease_s=lease_s, card=card),
        consumer(client, keys, spec.name),
        RedisClock(),
        limits=WorkerLimits(batch_size=4, max_attempts=3),
        device=Device(),
    )


def step(worker: Worker) -> int:
    """One batch, and until it is completed. Returns its size."""
    jobs = worker.step()
    worker.pipeline.parts.settle()
    return jobs


def enqueue(client: redis.Redis, keys: Keys, *jobs: Job) -> list[Job]:
    """Put jobs into the tiny model's queue."""
    for each in jobs:
        producer(client, keys).enqueue(MODEL, each)
    return list(jobs)


def result(client: redis.Redis, keys: Keys, job_id: str) -> Result:
    """The result of a job of the tiny model, which must be there."""
    found = producer(client, keys).poll(MODEL, job_id)
    assert isinstance(found, Result)
    return found


def is_pending(client: redis.Redis, keys: Keys, job_id: str) -> bool:
    """Whether a job of the tiny model was accepted and has no result yet."""
    value = client.get(keys.result(MODEL, job_id))
    return isinstance(value, bytes) and codec.decode_pending(value) is not None


def lapse(client: redis.Redis, keys: Keys, worker: str) -> None:
    """Make a live lease one that lapsed half a second ago, as if its worker had been silent."""
    seconds, microseconds = client.time()
    client.zadd(keys.of(MODEL).workers, {worker: seconds + microseconds / 1e6 - 0.5})
