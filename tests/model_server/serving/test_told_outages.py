"""What a worker, its keeper and its completion tell of a Redis that is away or refuses, on a real Redis."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker.consumer import Consumer
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.lease import Lease
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.worker import Worker
from tests.support.fakes import MODEL, enqueue, job, result, step


@pytest.mark.slow
def test_an_outage_is_over_once_the_worker_its_keeper_and_its_completion_are_through(
    client: redis.Redis,
    keys: Keys,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each in a thread of its own, as in service, and trying again five times a second."""
    keeper = LeaseKeeper(worker.registration, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    (only,) = enqueue(client, keys, job())
    batch = worker.pipeline.claim()
    assert batch is not None
    outcomes = worker.pipeline.run(batch)
    complete, is_completed = Consumer.complete, threading.Event()
    tried = threading.Semaphore(0)

    def complete_at_last(self: Consumer, *args: object) -> bool:
        if not is_completed.is_set():
            tried.release()
            raise BrokerUnavailable("Redis is away.")
        return complete(self, *args)  # type: ignore[arg-type]

    def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable("Redis is away.")

    monkeypatch.setattr(Consumer, "complete", complete_at_last)
    with ThreadPoolExecutor(1) as own, ThreadPoolExecutor(1) as keepers, ThreadPoolExecutor(1) as completer:
        completion = completer.submit(worker.pipeline.complete, batch.shares[0], outcomes)
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


@pytest.mark.slow
@pytest.mark.parametrize("last", ["step", "tick"])
def test_whoever_failed_is_waited_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, last: str
) -> None:
    keeper = LeaseKeeper(worker.registration, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
    who: dict[str, Callable[[], object]] = {"step": worker.step, "tick": lambda: keeper.tick(0.0)}

    def away(*_: object, **__: object) -> None:
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


@pytest.mark.slow
def test_what_redis_refuses_a_model_is_told_with_its_name(
    client: redis.Redis, keys: Keys, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(keys.of(MODEL).queue, "no list")
    worker.step()
    client.delete(keys.of(MODEL).queue)
    worker.step()
    began, ended = _told(caplog)
    assert began.startswith(f"{MODEL}: Redis can't hand out jobs: ")
    assert "bw:{tiny}:queue holds a string, where a list belongs" in began
    assert ended.startswith(f"{MODEL}: Redis takes it again, after ")


def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "broker.outage"]
