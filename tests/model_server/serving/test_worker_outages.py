"""The worker when Redis, a reply or its lease goes away between its steps, on a real Redis."""

import threading
from pathlib import Path

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.producer import PendingJob
from model_server.serving.worker import Worker
from tests.support import fakes
from tests.support.fakes import MODEL, READY, FakeEngine, enqueue, job, lapse, result, step
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


def test_a_reaped_worker_goes_on_under_a_new_id(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    old = worker.lease.worker
    lapse(client, keys, old)
    fakes.lease(client, keys).recover_lost()
    (only,) = enqueue(client, keys, job())
    step(worker)
    step(worker)
    assert worker.lease.worker != old
    assert result(client, keys, only.id).error is None


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
    assert fakes.producer(client, keys).poll(MODEL, only.id) == PendingJob(deadline_passed=False)
    eventually(lambda: step(worker) == 1)
    assert result(client, keys, only.id).attempts == 1


def test_a_batch_outlives_a_lapsed_lease_that_nobody_reaped(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    worker_id = worker.lease.worker
    engine.on_batch = lambda _: lapse(client, keys, worker_id)
    (only,) = enqueue(client, keys, job())
    step(worker)
    assert result(client, keys, only.id).attempts == 0
    assert worker.lease.worker == worker_id


def test_a_claim_whose_reply_was_lost_is_given_back_and_claimed_again(
    client: redis.Redis, keys: Keys, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, calls = Consumer.claim, []

    def lose_the_first_reply(self: Consumer, *args: object, **options: object) -> object:
        claimed = claim(self, *args, **options)  # type: ignore[arg-type]
        calls.append(claimed)
        if len(calls) == 1:
            raise BrokerUnavailable("the reply is lost")
        return claimed

    monkeypatch.setattr(Consumer, "claim", lose_the_first_reply)
    jobs = enqueue(client, keys, job(), job())
    assert step(worker) == 0
    assert step(worker) == 2
    assert not worker.pipeline.parts.own.is_uncertain  # given back once, and not before every step
    assert [result(client, keys, each.id).attempts for each in jobs] == [0, 0]


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
    assert all(result(client, keys, each.id).error is None for each in jobs)


@pytest.mark.slow
def test_what_a_killed_redis_forgot_stands_in_nobody_s_way(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    # Redis came back without its last writes: a batch that was completed stands before the new one.
    (forgotten,) = enqueue(client, keys, job())
    client.lmove(keys.of(MODEL).queue, keys.of(MODEL).claims(worker.lease.worker), "LEFT", "RIGHT")
    jobs = enqueue(client, keys, job(), job())
    for _ in range(3):
        step(worker)
    assert [result(client, keys, each.id).attempts for each in (forgotten, *jobs)] == [0, 0, 0]
    assert client.llen(keys.of(MODEL).claims(worker.lease.worker)) == 0


@pytest.mark.slow
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
    assert [result(client, keys, each.id).attempts for each in (suspect, *others)] == [1, 0, 0]


def test_what_was_taken_from_a_worker_before_it_began_is_not_run(
    client: redis.Redis, keys: Keys, worker: Worker, engine: FakeEngine
) -> None:
    enqueue(client, keys, job())
    batch = worker.pipeline.claim()
    assert batch is not None
    worker.lease.register(READY)  # as after it was reaped
    assert worker.pipeline.run(batch) == []
    assert engine.batches == []


def test_a_lapsed_lease_that_nobody_reaped_is_left_without_an_attempt(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    enqueue(client, keys, job())
    assert worker.pipeline.claim() is not None
    lapse(client, keys, worker.lease.worker)
    worker.leave()
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
    batch = worker.pipeline.claim()
    assert batch is not None
    outcomes = worker.pipeline.run(batch)
    worker.stopping.set()
    worker.pipeline.complete(batch.shares[0], outcomes)
    assert result(client, keys, only.id).error is None


def test_a_restart_of_redis_between_claim_and_completion_loses_nothing(
    own_redis: RedisServer, keys: Keys, engine: FakeEngine, tmp_path: Path
) -> None:

    client = connect(own_redis.url, timeout_s=5)
    made = fakes.worker(client, keys, engine, tmp_path)
    made.pipeline.engine = engine

    def restart(_: NDArray[np.uint8]) -> None:
        own_redis.stop(kill=True)
        threading.Timer(0.5, own_redis.start).start()

    engine.on_batch = restart
    jobs = enqueue(client, keys, job(), job())
    step(made)
    assert [result(client, keys, each.id).attempts for each in jobs] == [0, 0]
    made.pipeline.close()
    client.close()
