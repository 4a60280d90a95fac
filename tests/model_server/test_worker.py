"""The worker's steps on a real Redis, with a network that is none."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from broker.clock import RedisClock
from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable, ModelUnavailable
from broker.keys import Keys
from broker.messages import Result, State, WorkerState
from broker.producer import Pending
from broker.registry import Registry
from model_server.worker import Worker
from tests import fakes
from tests.conftest import RedisServer
from tests.fakes import MODEL, READY, FakeEngine, enqueue, eventually, job, lapse, step


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def worker(client: redis.Redis, keys: Keys, engine: FakeEngine, tmp_path: Path) -> Iterator[Worker]:
    made = fakes.worker(client, keys, engine, tmp_path)
    made._engine = engine
    yield made
    made._pipeline.close()


def _result(client: redis.Redis, keys: Keys, job_id: str) -> Result:
    result = fakes.producer(client, keys).poll(MODEL, job_id)
    assert isinstance(result, Result)
    return result


def test_a_batch_is_claimed_run_once_and_completed(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    jobs = enqueue(client, keys, job(value=0), job(value=255), job(value=128))
    assert step(worker) == 3
    assert engine.batches == [3]
    labels = [_result(client, keys, each.id).predictions[0].label for each in jobs]
    assert labels == ["dark", "bright", "grey"]
    first = _result(client, keys, jobs[0].id)
    assert (first.batch_size, first.attempts, len(first.predictions)) == (3, 0, 2)
    assert first.timings_ms.waiting > 0
    assert client.llen(keys.of(MODEL).claims(worker.lease.worker)) == 0
    state = worker.standing.state
    assert (state.pictures, state.rate > 0) == (3, True)
    assert state.waiting_ms == pytest.approx(first.timings_ms.waiting, rel=0.5)
    enqueue(client, keys, job())
    assert sum(step(worker) for _ in range(2)) == 1  # the first may have asked before it came
    assert worker.standing.state.pictures == 4


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
    results = [_result(client, keys, each.id) for each in jobs]
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
    error = _result(client, keys, late.id).error
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
    assert _result(client, keys, bad.id).error is not None
    assert _result(client, keys, good.id).error is None


def test_a_reaped_worker_goes_on_under_a_new_id(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    old = worker.lease.worker
    lapse(client, keys, old)
    fakes.lease(client, keys).recover_lost()
    (only,) = enqueue(client, keys, job())
    step(worker)
    step(worker)
    assert worker.lease.worker != old
    assert _result(client, keys, only.id).error is None


def test_a_batch_whose_worker_was_reaped_meanwhile_is_left_to_others(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    old = worker.lease.worker

    def be_reaped(_: NDArray[np.uint8]) -> None:
        if worker.lease.worker == old and len(engine.batches) == 1:
            lapse(client, keys, old)
            fakes.lease(client, keys).recover_lost()

    engine.on_batch = be_reaped
    (only,) = enqueue(client, keys, job())
    step(worker)
    assert fakes.producer(client, keys).poll(MODEL, only.id) == Pending(deadline_passed=False)
    eventually(lambda: step(worker) == 1)
    assert _result(client, keys, only.id).attempts == 1


def test_a_batch_outlives_a_lapsed_lease_that_nobody_reaped(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    worker_id = worker.lease.worker
    engine.on_batch = lambda _: lapse(client, keys, worker_id)
    (only,) = enqueue(client, keys, job())
    step(worker)
    assert _result(client, keys, only.id).attempts == 0
    assert worker.lease.worker == worker_id


def test_a_claim_whose_reply_was_lost_is_given_back_and_claimed_again(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, calls = Consumer.claim, []

    def lose_the_first_reply(self: Consumer, *args: object) -> object:
        claimed = claim(self, *args)  # type: ignore[arg-type]
        calls.append(claimed)
        if len(calls) == 1:
            raise BrokerUnavailable("the reply is lost")
        return claimed

    monkeypatch.setattr(Consumer, "claim", lose_the_first_reply)
    jobs = enqueue(client, keys, job(), job())
    assert step(worker) == 0
    assert step(worker) == 2
    assert [_result(client, keys, each.id).attempts for each in jobs] == [0, 0]


def test_a_completion_whose_reply_was_lost_is_not_done_twice(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, calls = Consumer.complete, []

    def lose_the_first_reply(self: Consumer, *args: object) -> bool:
        calls.append(complete(self, *args))  # type: ignore[arg-type]
        if len(calls) == 1:
            raise BrokerUnavailable("the reply is lost")
        return calls[-1]

    monkeypatch.setattr(Consumer, "complete", lose_the_first_reply)
    jobs = enqueue(client, keys, *(job() for _ in range(6)))
    step(worker)
    assert calls == [True, False]
    # What was claimed ahead meanwhile went back to the queue.
    assert step(worker) == 2
    assert client.llen(keys.of(MODEL).claims(worker.lease.worker)) == 0
    assert all(_result(client, keys, each.id).error is None for each in jobs)


def test_what_a_killed_redis_forgot_stands_in_nobody_s_way(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    # Redis came back without its last writes: a batch that was completed stands before the new one.
    (forgotten,) = enqueue(client, keys, job())
    client.lmove(keys.of(MODEL).queue, keys.of(MODEL).claims(worker.lease.worker), "LEFT", "RIGHT")
    jobs = enqueue(client, keys, job(), job())
    for _ in range(3):
        step(worker)
    assert [_result(client, keys, each.id).attempts for each in (forgotten, *jobs)] == [0, 0, 0]
    assert client.llen(keys.of(MODEL).claims(worker.lease.worker)) == 0


def test_a_job_that_a_lost_worker_had_runs_with_nothing_else_claimed(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    lost = fakes.lease(client, keys).register(READY)
    suspect, *others = enqueue(client, keys, *(job() for _ in range(3)))
    fakes.consumer(client, keys).claim(lost, 1)
    lapse(client, keys, lost)
    worker.lease.recover_lost()
    held: list[int] = []
    engine.on_batch = lambda _: held.append(client.llen(keys.of(MODEL).claims(worker.lease.worker)))
    for _ in range(3):
        step(worker)
    assert held == [1, 2]
    assert [_result(client, keys, each.id).attempts for each in (suspect, *others)] == [1, 0, 0]


def test_what_was_taken_from_a_worker_before_it_began_is_not_run(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    enqueue(client, keys, job())
    formed = worker._claim()
    assert formed is not None
    worker.lease.register(READY)  # as after it was reaped
    assert worker._run(formed).outcomes == []
    assert engine.batches == []


def test_a_lapsed_lease_that_nobody_reaped_is_left_without_an_attempt(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    enqueue(client, keys, job())
    assert worker._claim() is not None
    lapse(client, keys, worker.lease.worker)
    worker._leave()
    assert client.llen(keys.of(MODEL).queue) == 1
    assert client.hgetall(keys.of(MODEL).attempts) == {}


def test_a_completion_is_tried_again_while_it_drains(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete, calls = Consumer.complete, []

    def fail_twice(self: Consumer, *args: object) -> bool:
        calls.append(args)
        if len(calls) < 3:
            raise BrokerUnavailable("away")
        return complete(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Consumer, "complete", fail_twice)
    (only,) = enqueue(client, keys, job())
    formed = worker._claim()
    assert formed is not None
    done = worker._run(formed)
    worker.stopping.set()
    worker._complete(done)
    assert _result(client, keys, only.id).error is None


def test_an_idle_worker_is_woken_by_the_bell(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_server.worker.IDLE_S", 4.0)
    idle = threading.Thread(target=worker.step)
    idle.start()
    eventually(lambda: any(each["cmd"] == "blpop" for each in client.client_list()))
    (only,) = enqueue(client, keys, job())
    idle.join(20)
    assert client.llen(keys.of(MODEL).bell) == 0
    step(worker)
    assert _result(client, keys, only.id).error is None


def test_a_batch_may_wait_to_fill_up(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    worker._limits = replace(worker._limits, batch_wait_s=15)
    enqueue(client, keys, job(), job())
    sizes: list[int] = []
    waiting = threading.Thread(target=lambda: sizes.append(worker.step()))
    waiting.start()
    waiting.join(0.3)
    # In the queue, where others can take them, and the device is a sibling's.
    assert client.llen(keys.of(MODEL).queue) == 2
    assert worker._pipeline._device._owner is None
    enqueue(client, keys, job(), job())
    waiting.join(10)
    assert sizes == [4]


def test_a_batch_that_does_not_fill_up_is_cut_in_time(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    worker._limits = replace(worker._limits, batch_wait_s=0.2)
    began = time.monotonic()
    enqueue(client, keys, job())
    assert worker.step() == 1
    assert time.monotonic() - began >= 0.2


@pytest.mark.parametrize("wait_s", [0.001, 0.003])
def test_a_short_wait_is_not_left_to_redis(
    client: redis.Redis, keys: Keys, worker: Worker, wait_s: float
) -> None:
    """BLPOP of Redis 6.2 waits for ever where it is told 1 ms, and 60 to 150 ms where it is told 3."""
    worker._limits = replace(worker._limits, batch_wait_s=wait_s)
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

    worker._load = fail
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
    with worker._pipeline._device:
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
        began.append(worker.call_began)
        if fails:
            raise RuntimeError("boom")

    engine.on_batch = on_batch
    enqueue(client, keys, job())
    step(worker)
    assert began[0] is not None
    assert worker.call_began is None


def test_while_it_stops_it_says_that_it_drains_and_no_longer_why_a_change_was_refused(
    worker: Worker,
) -> None:
    worker.standing.say(State(WorkerState.READY, "v1", reason="broken. Version v1 serves on."))
    before = worker.standing.state
    worker.stopping.set()
    after = worker.standing.state
    assert (before.state, after.state) == (WorkerState.READY, WorkerState.DRAINING)
    assert (before.reason, after.reason) == ("broken. Version v1 serves on.", "")


def test_stopping_finishes_the_batch_and_leaves(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    engine.on_batch = lambda _: worker.stopping.set()
    running, waiting = [enqueue(client, keys, *(job() for _ in range(4))), enqueue(client, keys, job())]
    worker.run()
    assert all(_result(client, keys, each.id).error is None for each in running)
    assert fakes.producer(client, keys).poll(MODEL, waiting[0].id) == Pending(deadline_passed=False)
    score = client.zscore(keys.of(MODEL).workers, worker.lease.worker)
    assert score is not None
    assert score < 0
    assert client.hgetall(keys.of(MODEL).attempts) == {}


def test_a_restart_of_redis_between_claim_and_completion_loses_nothing(
    own_redis: RedisServer, keys: Keys, engine: FakeEngine, tmp_path: Path
) -> None:

    client = connect(own_redis.url, timeout_s=5)
    made = fakes.worker(client, keys, engine, tmp_path)
    made._engine = engine

    def restart(_: NDArray[np.uint8]) -> None:
        own_redis.stop(kill=True)
        threading.Timer(0.5, own_redis.start).start()

    engine.on_batch = restart
    jobs = enqueue(client, keys, job(), job())
    step(made)
    assert [_result(client, keys, each.id).attempts for each in jobs] == [0, 0]
    made._pipeline.close()
    client.close()
