"""What each stage of Batchwire's path costs, measured in one process: real functions, a real Redis.

Owns the little world that the functions need: a Redis as `make serve` starts it, a worker with a lease, jobs.
Nothing waits for anything here, so these are costs, not latencies: CPU of this process and of Redis.
"""

import io
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import psutil
import redis
from flask import Flask
from numpy.typing import NDArray
from werkzeug.test import EnvironBuilder

from benchmarks.whole_decode import whole_decode
from broker import codec
from broker.clock import RedisClock
from broker.connection import connect
from broker.consumer import ClaimedJob, CompletedJob, Consumer
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import Card, Job, Pace, Result, State, Timings, WorkerState
from broker.producer import Limits, Producer
from model_server.catalogue.model_spec import read_model
from model_server.engines.engine import Outputs
from model_server.serving import batching
from model_server.serving import results as batch_results
from pictures import fit
from settings import PROJECT
from tests.support.redis_server import running_redis
from web.routes import predict
from web.uploads import reader

_BATCH: Final = 32
_BATCHES: Final = 6
_TTL_S: Final = 3600
_MAX_PIXELS: Final = 50_000_000
_ENCODE: Final = "base64, JSON"
_ENQUEUE: Final = "enqueue (Redis)"

Cost = dict[str, float]


def measure(picture: bytes) -> dict[str, Cost]:
    """CPU milliseconds a picture of each stage: `own` in the calling process, `redis` in Redis."""
    with running_redis() as server, connect(server.url, timeout_s=5) as client:
        return _Path(client, psutil.Process(server.pid), picture).walk()


class _Path:
    """A picture's way, one stage after the other, a batch of pictures at a time."""

    def __init__(self, client: redis.Redis, process: psutil.Process, picture: bytes) -> None:
        self._picture = picture
        self._process = process
        self._spec = read_model(PROJECT / "models", "resnet50", weights="random")
        keys, clock = Keys("bench:"), RedisClock()
        card = Card(
            "resnet50", "classification", self._spec.input, 1000, 5, 1000, "null", "fp32", "random", "1"
        )
        lease = Lease(client, keys, card, lease_s=60, key_ttl_s=_TTL_S, clock=clock)
        self._worker = lease.register(State(WorkerState.READY, "1"))
        self._clock = clock
        limits = Limits(queue_jobs=10_000, queue_bytes=2**30, result_ttl_s=60, key_ttl_s=_TTL_S)
        self._producer = Producer(client, keys, limits)
        self._consumer = Consumer(client, keys, "resnet50", key_ttl_s=_TTL_S, result_ttl_s=60)
        self._app = Flask("stages")
        self._found: dict[str, Cost] = {}

    def walk(self) -> dict[str, Cost]:
        """The first batch warms everything up and is not counted."""
        self._batch()
        self._found = {}
        for _ in range(_BATCHES):
            self._batch()
        # It encodes the job once more, which has its own line.
        self._found[_ENQUEUE]["own"] -= self._found[_ENCODE]["own"]
        return self._found

    def _batch(self) -> None:
        parse = self._stage("parse the form", self._parse, [self._request() for _ in range(_BATCH)])
        pixels = self._stage("decode (draft), resize", self._decode, parse)
        with whole_decode():
            self._stage("(the same, full decode)", self._decode, parse)
        jobs = [self._job(each) for each in pixels]
        self._stage(_ENCODE, codec.encode_job, jobs)
        self._stage("admit (Redis)", lambda _: self._admit(), jobs)
        self._stage(_ENQUEUE, self._enqueue, jobs)
        (claimed,) = self._stage("claim (Redis)", lambda _: self._claim(), [None], pictures=_BATCH)
        (batch,) = self._stage("JSON, base64 back", self._form, [claimed], pictures=_BATCH)
        self._stage(
            "stack, null model", lambda _: batching.run(batch.entries, _null), [None], pictures=_BATCH
        )
        (done,) = self._stage("results", self._outcomes, [batch], pictures=_BATCH)
        self._stage("complete (Redis)", self._complete, [done], pictures=_BATCH)
        payloads = [codec.encode(each.result) for each in done if each.result is not None]
        results = self._stage("read the message", lambda payload: codec.decode(payload, Result), payloads)
        with self._app.test_request_context():
            self._stage("make the answer", self._answer, results)

    def _stage(
        self, name: str, act: Callable[[Any], Any], inputs: list[Any], pictures: int | None = None
    ) -> list[Any]:
        redis_before, own_before = self._redis_s(), time.process_time()
        made = [act(each) for each in inputs]
        own = time.process_time() - own_before
        in_redis = self._redis_s() - redis_before
        cost = self._found.setdefault(name, {"own": 0.0, "redis": 0.0})
        scale = 1e3 / (pictures or len(inputs)) / _BATCHES
        cost["own"] += own * scale
        cost["redis"] += in_redis * scale
        return made

    def _redis_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _request(self) -> Any:  # noqa: ANN401 - Flask's
        form = {"image": (io.BytesIO(self._picture), "x.jpg")}
        environ = EnvironBuilder("/predict", method="POST", data=form).get_environ()
        return self._app.request_class(environ)

    def _parse(self, request: Any) -> bytes:  # noqa: ANN401
        (picture,) = reader.read(request).pictures
        if not isinstance(picture, bytes):
            raise TypeError(f"{picture!r} is not the file that was sent. This is a bug")
        return picture

    def _decode(self, picture: bytes) -> NDArray[np.uint8]:
        return fit.prepare(picture, self._spec.input, max_pixels=_MAX_PIXELS).pixels

    def _job(self, pixels: NDArray[np.uint8]) -> Job:
        now = self._clock.now()
        return Job(
            id=str(uuid.uuid4()),
            image=pixels,
            accepted_at=now,
            deadline=now + 60,
            reply_to="bench",
            original_size=(1280, 720),
            top=5,
            traceparent=None,
        )

    def _admit(self) -> None:
        self._producer.admit("resnet50", size=200_000, timeout_s=60, pace=Pace())

    def _enqueue(self, job: Job) -> None:
        self._producer.enqueue("resnet50", job)

    def _claim(self) -> list[ClaimedJob]:
        return self._consumer.claim(self._worker, _BATCH)

    def _form(self, claimed: list[ClaimedJob]) -> batching.Batch:
        return batching.form(claimed, self._spec, began=0.0, now=self._clock.now(), max_attempts=3)

    def _outcomes(self, batch: batching.Batch) -> list[CompletedJob]:
        timings = Timings(batch=1.0, model=1.0)
        model = batch_results.ServedModel(self._spec, "1")
        return [
            batch_results.completed(entry, model, claimed_at=batch.claimed_at, timings=timings)
            for entry in batch.entries
        ]

    def _complete(self, done: list[CompletedJob]) -> None:
        if not self._consumer.complete(self._worker, done):
            raise RuntimeError("the claims do not begin with this batch")

    def _answer(self, result: Result) -> bytes:
        return predict.one(result).get_data()


def _null(batch: NDArray[np.uint8]) -> Outputs:
    return (np.full((len(batch), 1000), 0.001, np.float32),)
