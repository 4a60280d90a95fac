"""The worker's steps on a real Redis, with a network that is none."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from msgspec.structs import replace as replace_struct
from numpy.typing import NDArray

from broker import codec
from broker.clock import RedisClock
from broker.consumer import ClaimedJob, Consumer
from broker.errors import ModelUnavailable
from broker.keys import Keys
from broker.messages import Result, State, WorkerState
from broker.producer import PendingJob
from broker.registry import Registry
from model_server.serving.device import PATIENCE_S
from model_server.serving.pipeline import WorkerLimits
from model_server.serving.worker import Worker
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine, enqueue, job, result, step
from tests.support.waiting import eventually


def test_a_batch_is_claimed_run_once_and_completed(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    jobs = enqueue(client, keys, job(value=0), job(value=255), job(value=128))
    assert step(worker) == 3
    assert engine.batches == [3]
    labels = [result(client, keys, each.id).predictions[0].label for each in jobs]
    assert labels == ["dark", "bright", "grey"]
    first = result(client, keys, jobs[0].id)
    assert (first.batch_size, first.attempts, len(first.predictions)) == (3, 0, 2)
    assert first.timings_ms.waiting > 0
    assert client.llen(keys.of(MODEL).claims(worker.lease.worker)) == 0
    state = worker.status.state
    assert (state.pictures, state.rate > 0) == (3, True)
    assert state.waiting_ms == pytest.approx(first.timings_ms.waiting, rel=0.5)
    enqueue(client, keys, job())
    assert sum(step(worker) for _ in range(2)) == 1  # the first may have asked before it came
    assert worker.status.state.pictures == 4


def test_a_job_that_asks_for_it_gets_the_probability_of_every_label(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    asking, other = enqueue(client, keys, replace_struct(job(), scores=True, top=1), job())
    step(worker)
    answer = result(client, keys, asking.id)
    assert answer.scores == pytest.approx([0.1, 0.7, 0.2])
    assert [each.label for each in answer.predictions] == ["grey"]
    assert result(client, keys, other.id).scores is None


def test_no_more_than_a_batch_is_claimed(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    enqueue(client, keys, *(job() for _ in range(6)))
    assert [step(worker), step(worker)] == [4, 2]
    assert engine.batches == [4, 2]


def test_a_bad_job_costs_only_itself(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    def on_batch(pictures: NDArray[np.uint8]) -> None:
        if (pictures == 13).any():
            raise RuntimeError("boom")

    engine.on_batch = on_batch
    jobs = enqueue(client, keys, job(value=0), job(value=13), job(value=255), job(shape=(9, 9, 1)))
    step(worker)
    results = [result(client, keys, each.id) for each in jobs]
    assert [each.error.code if each.error else "ok" for each in results] == [
        "ok",
        "inference_failed",
        "ok",
        "inference_failed",
    ]
    assert client.llen(keys.of(MODEL).dead) == 2
    for dead in (jobs[1], jobs[3]):
        assert f"job {dead.id} is a dead letter: " in caplog.text


def test_a_job_past_its_deadline_never_reaches_the_network(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    (late,) = enqueue(client, keys, job(deadline_in_s=0.0))
    step(worker)
    error = result(client, keys, late.id).error
    assert error is not None
    assert error.code == "deadline_passed"
    assert engine.batches == []
    assert client.llen(keys.of(MODEL).dead) == 0


def test_a_cancelled_job_never_reaches_the_network(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    (gone,) = enqueue(client, keys, job())
    fakes.producer(client, keys).cancel(MODEL, gone.id)
    assert step(worker) == 1
    assert engine.batches == []
    assert not client.exists(keys.of(MODEL).result(gone.id))


def test_outputs_that_are_no_numbers_fail_alone(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        outputs = np.full((len(batch), 3), 1 / 3, np.float32)
        outputs[batch[:, 0, 0, 0] == 13] = np.nan
        return (outputs,)

    monkeypatch.setattr(engine, "predict", predict)
    bad, good = enqueue(client, keys, job(value=13), job(value=200))
    step(worker)
    assert result(client, keys, bad.id).error is not None
    assert result(client, keys, good.id).error is None


def test_an_idle_worker_runs_again_what_redis_forgot_that_it_completed(
    client: redis.Redis,
    keys: Keys,
    worker: Worker,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("model_server.serving.worker.IDLE_S", 0.05)
    (only,) = enqueue(client, keys, job())
    of_model = keys.of(MODEL)
    pending, payload = client.get(of_model.result(only.id)), client.lindex(of_model.queue, 0)
    assert pending is not None
    assert isinstance(payload, bytes)
    assert step(worker) == 1
    assert result(client, keys, only.id).error is None
    # As a replica has it that was promoted before it heard of the completion.
    client.set(of_model.result(only.id), pending)
    client.rpush(of_model.claims(worker.lease.worker), payload)
    assert sum(step(worker) for _ in range(3)) == 1
    assert engine.batches == [1, 1]
    assert result(client, keys, only.id).error is None
    assert client.llen(of_model.claims(worker.lease.worker)) == 0
    assert caplog.text.count("Redis has forgotten completed jobs") == 1


def test_an_idle_worker_is_woken_by_the_bell(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_server.serving.worker.IDLE_S", 4.0)
    idle = threading.Thread(target=worker.step)
    idle.start()
    eventually(lambda: any(each["cmd"] == "blpop" for each in client.client_list()))
    (only,) = enqueue(client, keys, job())
    idle.join(20)
    assert client.llen(keys.of(MODEL).bell) == 0
    step(worker)
    assert result(client, keys, only.id).error is None


def _run_one(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    (only,) = enqueue(client, keys, job())
    eventually(lambda: step(worker) == 1)
    assert result(client, keys, only.id).error is None


def test_a_call_that_ends_before_a_claim_does_is_completed_without_another_thread(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, complete, is_own = Consumer.claim, Consumer.complete, []

    def slow(self: Consumer, *args: object, **options: object) -> list[ClaimedJob]:
        time.sleep(0.1)  # else a busy machine may take longer for the call
        return claim(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Consumer, "claim", slow)

    def noted(self: Consumer, *args: object) -> bool:
        is_own.append(threading.current_thread() is threading.main_thread())
        return complete(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Consumer, "complete", noted)
    for _ in range(2):
        _run_one(client, keys, worker)
    engine.on_batch = lambda _: time.sleep(0.6)
    for _ in range(2):
        _run_one(client, keys, worker)
    # What a call takes is known after the first, and after the first slow one.
    assert is_own == [False, True, True, False]


def test_a_queue_that_a_claim_emptied_is_asked_again_once_its_bell_rings(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, found = Consumer.claim, list[int]()

    def counted(self: Consumer, *args: object, **options: object) -> list[ClaimedJob]:
        time.sleep(0.1)  # else a busy machine may take longer for the call, and claim ahead
        jobs = claim(self, *args, **options)  # type: ignore[arg-type]
        found.append(len(jobs))
        return jobs

    monkeypatch.setattr(Consumer, "claim", counted)
    _run_one(client, keys, worker)
    assert step(worker) == 0
    found.clear()
    monkeypatch.setattr("model_server.serving.worker.IDLE_S", 0.01)
    for _ in range(3):
        _run_one(client, keys, worker)
        assert step(worker) == 0
    assert found == [1, 1, 1]
    enqueue(client, keys, *(job() for _ in range(4)))
    assert step(worker) == 4  # all that a claim may take: there may be more
    assert [step(worker), step(worker)] == [0, 0]
    assert found == [1, 1, 1, 4, 0, 0]


def test_a_batch_may_wait_to_fill_up(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    worker.pipeline.limits = replace(worker.pipeline.limits, batch_wait_s=15)
    enqueue(client, keys, job(), job())
    sizes: list[int] = []
    waiting = threading.Thread(target=lambda: sizes.append(worker.step()))
    waiting.start()
    waiting.join(0.3)
    # In the queue, where others can take them, and the device is a sibling's.
    assert client.llen(keys.of(MODEL).queue) == 2
    began = time.monotonic()
    with worker.pipeline.device:
        assert time.monotonic() - began < PATIENCE_S
    enqueue(client, keys, job(), job())
    waiting.join(10)
    assert sizes == [4]


def test_a_batch_that_does_not_fill_up_is_cut_in_time(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    worker.pipeline.limits = replace(worker.pipeline.limits, batch_wait_s=0.2)
    began = time.monotonic()
    enqueue(client, keys, job())
    assert worker.step() == 1
    assert time.monotonic() - began >= 0.2


def test_while_owners_share_a_batch_waits_for_no_more_than_is_efficient(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    pipeline = worker.pipeline
    pipeline.limits = replace(pipeline.limits, batch_wait_s=15)
    for pictures in (1, 4):  # it costs by the picture
        pipeline.times.add(pictures, 0.1 * pictures)
    pipeline.device.owners.add({"ann", "bob"}, time.monotonic())
    began = time.monotonic()
    enqueue(client, keys, job())
    assert worker.step() == 1
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("wait_s", [0.001, 0.003])
def test_a_short_wait_is_not_left_to_redis(
    client: redis.Redis, keys: Keys, worker: Worker, wait_s: float
) -> None:
    """BLPOP of Redis 6.2 waits for ever where it is told 1 ms, and 60 to 150 ms where it is told 3."""
    worker.pipeline.limits = replace(worker.pipeline.limits, batch_wait_s=wait_s)
    enqueue(client, keys, job())
    client.config_resetstat()
    assert worker.step() == 1
    assert "cmdstat_blpop" not in client.info("commandstats")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelUnavailable("no weights. Three ways out"), "no weights. Three ways out"),
        (
            ValueError("axis -1\nmore"),
            "tiny: the network can't be run as its model.toml says (axis -1).",
        ),
    ],
)
def test_a_model_that_fails_to_load_says_why_and_stays(
    client: redis.Redis, keys: Keys, worker: Worker, error: Exception, reason: str
) -> None:
    def fail() -> FakeEngine:
        raise error

    worker.load = fail
    registry = Registry(client, keys, RedisClock())
    serving = threading.Thread(target=worker.run)
    serving.start()
    eventually(lambda: registry.models(fresh=True)[MODEL].state is WorkerState.FAILED)
    assert registry.models(fresh=True)[MODEL].reason == reason
    worker.stopping.set()
    serving.join(20)
    assert registry.models(fresh=True)[MODEL].state is None


def test_nothing_is_claimed_while_a_sibling_has_the_device(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    enqueue(client, keys, job())
    waiting = threading.Thread(target=worker.step)
    with worker.pipeline.device:
        waiting.start()
        waiting.join(0.3)
        assert client.llen(keys.of(MODEL).queue) == 1
    waiting.join(20)
    assert client.llen(keys.of(MODEL).queue) == 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_is_timed_only_while_it_runs(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine, fails: bool
) -> None:
    began: list[float | None] = []

    def on_batch(_: NDArray[np.uint8]) -> None:
        began.append(worker.status.call_began)
        if fails:
            raise RuntimeError("boom")

    engine.on_batch = on_batch
    enqueue(client, keys, job())
    step(worker)
    assert began[0] is not None
    assert worker.status.call_began is None


def test_while_it_stops_it_says_that_it_drains_and_no_longer_why_a_change_was_refused(
    worker: Worker,
) -> None:
    worker.status.publish(State(WorkerState.READY, "v1", reason="broken. Version v1 serves on."))
    before = worker.status.state
    worker.stopping.set()
    after = worker.status.state
    assert (before.state, after.state) == (WorkerState.READY, WorkerState.DRAINING)
    assert (before.reason, after.reason) == ("broken. Version v1 serves on.", "")


def test_stopping_finishes_the_batch_and_leaves(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    engine.on_batch = lambda _: worker.stopping.set()
    running, waiting = [enqueue(client, keys, *(job() for _ in range(4))), enqueue(client, keys, job())]
    worker.run()
    assert all(result(client, keys, each.id).error is None for each in running)
    assert fakes.producer(client, keys).poll(MODEL, waiting[0].id) == PendingJob(deadline_passed=False)
    score = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    assert score is not None
    assert score < 0
    assert client.hgetall(keys.of(MODEL).attempts) == {}


def test_the_card_and_the_results_name_the_engine_that_was_loaded(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    class FallbackEngine(FakeEngine):
        name = "fallback"
        precision = "bf16"

    worker = fakes.unregistered_worker(client, keys, fakes.spec(tmp_path), FallbackEngine)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        assert worker.ready.wait(20)
        (only,) = enqueue(client, keys, job())
        eventually(lambda: isinstance(fakes.producer(client, keys).poll(MODEL, only.id), Result))
        given = result(client, keys, only.id)
        card = Registry(client, keys, RedisClock()).models(fresh=True)[MODEL].card
        assert card is not None
        assert (given.engine, given.precision) == (card.engine, card.precision) == ("fallback", "bf16")
    finally:
        worker.stop()
        client.rpush(keys.of(MODEL).bell, "1")
        running.join(20)


def test_a_slow_network_gets_smaller_batches(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    engine = FakeEngine(on_batch=lambda batch: time.sleep(0.02 * len(batch)))
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    worker.pipeline.limits = WorkerLimits(batch_size=32, max_attempts=3, call_s=0.07)
    fakes.enqueue(client, keys, *(fakes.job() for _ in range(30)))
    while fakes.step(worker):
        pass
    assert engine.batches[:2] == [8, 8]  # nobody knows yet: the second is claimed while the first runs
    assert sum(engine.batches) == 30
    assert all(1 <= size <= 5 for size in engine.batches[2:])
    worker.leave()


@pytest.mark.slow
def test_a_fast_network_s_batches_are_soon_full(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    engine = FakeEngine()
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    worker.pipeline.limits = WorkerLimits(batch_size=32, max_attempts=3, call_s=2.5)
    fakes.enqueue(client, keys, *(fakes.job() for _ in range(72)))
    while fakes.step(worker):
        pass
    assert engine.batches == [8, 8, 32, 24]
    worker.leave()


def test_the_first_pace_is_told_at_once(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    engine = FakeEngine()
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    fakes.enqueue(client, keys, fakes.job())
    fakes.step(worker)
    states = client.hgetall(keys.of(fakes.MODEL).states)
    (state,) = states.values()
    assert isinstance(state, bytes)
    assert codec.decode(state, State).rate > 0
    worker.leave()
