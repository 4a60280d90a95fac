"""Re-queueing dead letters on a real Redis: whoever dies or comes at the same moment, no job is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from broker.connection import connect
from broker.consumer import DEAD_LIMIT
from broker.dead_letters import DeadLetters
from broker.errors import BrokerUnavailable, ClientError
from broker.keys import Keys
from broker.messages import Job, Pace
from broker.producer import Producer
from tests.conformance.test_dead_letters import TIMEOUT_S, box, bury, queued
from tests.support.fakes import MODEL, is_pending, job
from tests.support.redis_server import RedisServer


def test_who_dies_before_it_is_queued_has_lost_nothing(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead,) = bury(client, keys, job())
    monkeypatch.setattr(Producer, "enqueue", _die)
    with pytest.raises(SystemExit):
        box(client, keys).requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert [each.id for each in box(client, keys).entries()] == [dead.id]


def test_who_dies_after_it_was_queued_leaves_two_jobs_with_an_answer_each(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead,) = bury(client, keys, job())
    with monkeypatch.context() as patched:
        patched.setattr(DeadLetters, "_remove", _die)
        with pytest.raises(SystemExit):
            box(client, keys).requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert [each.id for each in box(client, keys).entries()] == [dead.id]
    second_id = box(client, keys).requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())
    first, second = queued(client, keys)
    assert len({dead.id, first.id, second.id}) == 3
    assert second.id == second_id
    assert is_pending(client, keys, first.id)


def _die(*_: object, **__: object) -> None:
    raise SystemExit


def test_a_redis_that_goes_between_queue_and_removal_does_not_hide_the_new_id(
    own_redis: RedisServer, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(own_redis.url, timeout_s=5)
    (dead,) = bury(client, keys, job())
    enqueue_job = Producer.enqueue
    accepted: list[Job] = []

    def enqueue_and_lose_redis(self: Producer, model: str, each: Job) -> None:
        enqueue_job(self, model, each)
        accepted.append(each)
        own_redis.stop()

    monkeypatch.setattr(Producer, "enqueue", enqueue_and_lose_redis)
    with pytest.raises(BrokerUnavailable) as away:
        box(client, keys).requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert f"{dead.id} is queued again as {accepted[0].id}" in away.value.detail
    own_redis.start()
    assert [each.id for each in box(client, keys).entries()] == [dead.id]


@pytest.mark.slow
@pytest.mark.parametrize("both_have_read", [False, True])
def test_two_operators_at_once_never_lose_a_job(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, both_have_read: bool
) -> None:
    together = threading.Barrier(2)
    if both_have_read:
        monkeypatch.setattr(Producer, "admit", lambda *_, **__: together.wait(10))

    def operator(job_id: str) -> Callable[[], str | None]:
        def requeue() -> str | None:
            if not both_have_read:
                together.wait(10)
            try:
                return box(client, keys).requeue(job_id, timeout_s=TIMEOUT_S, pace=Pace())
            except ClientError:
                return None

        return requeue

    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            (dead,) = bury(client, keys, job())
            futures = [pool.submit(operator(dead.id)) for _ in range(2)]
            fresh = {future.result() for future in futures} - {None}
            assert len(fresh) == 2 if both_have_read else fresh
            assert {each.id for each in queued(client, keys)} == fresh
            assert box(client, keys).entries() == []
            client.delete(keys.of(MODEL).polled)


@pytest.mark.slow
def test_what_was_pushed_out_of_dead_meanwhile_is_queued_all_the_same(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dead,) = bury(client, keys, job())
    newer = [job() for _ in range(DEAD_LIMIT)]
    admit = Producer.admit

    def admit_while_others_die(
        self: Producer, model: str, *, size: int, timeout_s: float, pace: Pace, polled: bool, lane: str
    ) -> None:
        bury(client, keys, *newer)
        admit(self, model, size=size, timeout_s=timeout_s, pace=pace, polled=polled, lane=lane)

    monkeypatch.setattr(Producer, "admit", admit_while_others_die)
    fresh_id = box(client, keys).requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert [each.id for each in queued(client, keys)] == [fresh_id]
    assert [each.id for each in box(client, keys).entries()] == [each.id for each in newer]
