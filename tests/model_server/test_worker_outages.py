"""The worker when Redis, a reply or its lease goes away between its steps, on a real Redis."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.lease import Lease
from broker.producer import Pending
from model_server.keeper import Keeper
from model_server.worker import Worker
from tests import fakes
from tests.conftest import RedisServer
from tests.fakes import MODEL, READY, FakeEngine, enqueue, eventually, job, lapse, result, step


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
    assert fakes.producer(client, keys).poll(MODEL, only.id) == Pending(deadline_passed=False)
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
    worker._completion.complete(done)
    assert result(client, keys, only.id).error is None


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
    assert [result(client, keys, each.id).attempts for each in jobs] == [0, 0]
    made._pipeline.close()
    client.close()


def test_an_outage_is_over_once_the_worker_its_keeper_and_its_completion_are_through(
    client: redis.Redis,
    keys: Keys,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each in a thread of its own, as in service, and trying again five times a second."""
    keeper = Keeper(worker, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    (only,) = enqueue(client, keys, job())
    formed = worker._claim()
    assert formed is not None
    done = worker._run(formed)
    complete, is_completed = Consumer.complete, threading.Event()
    tried = threading.Semaphore(0)

    def complete_at_last(self: Consumer, *args: object) -> bool:
        if not is_completed.is_set():
            tried.release()
            raise BrokerUnavailable("Redis is away.")
        return complete(self, *args)  # type: ignore[arg-type]

    def away(*_: object) -> None:
        raise BrokerUnavailable("Redis is away.")

    monkeypatch.setattr(Consumer, "complete", complete_at_last)
    with ThreadPoolExecutor(1) as own, ThreadPoolExecutor(1) as keepers, ThreadPoolExecutor(1) as completer:
        completion = completer.submit(worker._completion.complete, done)
        with monkeypatch.context() as patch:
            patch.setattr(Consumer, "claim", away)
            patch.setattr(Lease, "renew", away)
            patch.setattr(Lease, "register", away)
            patch.setattr(worker.stopping, "wait", lambda _: True)
            for _ in range(3):
                own.submit(worker.step).result()
                own.submit(worker.registration.ensure, lost=worker.lease.worker).result()
                keepers.submit(keeper.tick, 0.0).result()
                assert tried.acquire(timeout=20)
        assert _told(caplog) == ["Redis is away. Trying again."]
        own.submit(worker.registration.ensure).result()
        keepers.submit(keeper.tick, 0.0).result()
        assert len(_told(caplog)) == 1
        is_completed.set()
        completion.result()
    assert _told(caplog)[1].startswith("Redis is back, after ")
    assert caplog.text.count("Redis is away.") == 1
    step(worker)
    step(worker)  # the claims were given back meanwhile: it was not known whether there were any
    assert result(client, keys, only.id).error is None


@pytest.mark.parametrize("last", ["step", "tick"])
def test_whoever_failed_is_waited_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, last: str
) -> None:
    keeper = Keeper(worker, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    who: dict[str, Callable[[], object]] = {"step": worker.step, "tick": lambda: keeper.tick(0.0)}

    def away(*_: object) -> None:
        raise BrokerUnavailable("Redis is away.")

    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        threads = {name: first if name == last else second for name in who}
        with monkeypatch.context() as patch:
            patch.setattr(Consumer, "claim", away)
            patch.setattr(Lease, "renew", away)
            for name, do in who.items():
                threads[name].submit(do).result()
        for name in sorted(who, key=lambda name: name == last):
            assert len(_told(caplog)) == 1
            threads[name].submit(who[name]).result()
    assert _told(caplog)[1].startswith("Redis is back, after ")


def test_what_redis_refuses_a_model_is_told_with_its_name(
    client: redis.Redis, keys: Keys, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(keys.of(MODEL).queue, "no list")
    worker.step()
    client.delete(keys.of(MODEL).queue)
    worker.step()
    began, ended = _told(caplog)
    assert began.startswith(f"{MODEL}: Redis can't hand out jobs: ")
    assert "WRONGTYPE" in began
    assert ended.startswith(f"{MODEL}: Redis takes it again, after ")


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "broker.outage"]
