"""Producer on a real Redis: accepting, refusing, cancelling, polling."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from msgspec import structs
from redis.client import Pipeline

from broker import codec
from broker.admission import MAX_RETRY_AFTER_S
from broker.connection import connect
from broker.errors import BrokerUnavailable, Overloaded
from broker.keys import Keys
from broker.lease import BELL_TOKENS
from broker.messages import Fit, InputSpec, Pace, Result
from broker.outage import Outage
from broker.producer import PendingJob, Producer
from tests.support.fakes import KEY_TTL_S, LIMITS, MODEL, RESULT_TTL_S, SPEC, enqueue, job, producer, result
from tests.support.redis_server import RedisServer, calls


def test_accepting_makes_pending_queue_and_bell(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job(deadline_in_s=10))
    pending = codec.encode_pending(only.accepted_at, only.deadline, where=codec.QUEUED)
    assert client.get(keys.of(MODEL).result(only.id)) == pending
    (queued,) = client.lrange(keys.of(MODEL).queue, 0, -1)
    assert isinstance(queued, bytes)
    assert codec.decode_job(queued).id == only.id
    assert client.llen(keys.of(MODEL).bell) == 1
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())


def test_the_bell_is_bounded(client: redis.Redis, keys: Keys) -> None:
    enqueue(client, keys, *(job() for _ in range(BELL_TOKENS + 5)))
    assert client.llen(keys.of(MODEL).bell) == BELL_TOKENS


def admit(
    into: Producer, *, size: int = 1, rate: float = 0.0, batch_s: float = 0.0, timeout_s: float = 1e6
) -> None:
    into.admit(MODEL, size=size, timeout_s=timeout_s, pace=Pace(rate, batch_s))


def test_refuses_what_could_not_be_answered_in_time(client: redis.Redis, keys: Keys) -> None:
    into = producer(client, keys)
    # Nothing waits: whatever the pace was, it is measured anew.
    admit(into, rate=0.001, batch_s=100, timeout_s=1)
    enqueue(client, keys, *(job() for _ in range(10)))
    # Ten before it at 2 a second, and two batches of 1.5 s: 8 s.
    admit(into, rate=2, batch_s=1.5, timeout_s=17)  # half of it is kept for surprises
    with pytest.raises(Overloaded) as refusal:
        admit(into, rate=2, batch_s=1.5, timeout_s=9)
    assert refusal.value.retry_after_s == 4
    assert refusal.value.valid_s == 0.25
    # Unmeasured it is taken for 16 a second.
    admit(into, rate=0, batch_s=1.5, timeout_s=1.3)
    with pytest.raises(Overloaded):
        admit(into, rate=0, timeout_s=1.2)


def test_refuses_when_the_queue_has_as_many_jobs_as_it_may(client: redis.Redis, keys: Keys) -> None:
    small = producer(client, keys, dataclasses.replace(LIMITS, queue_jobs=2))
    enqueue(client, keys, job())
    admit(small)
    enqueue(client, keys, job())
    with pytest.raises(Overloaded) as refusal:
        admit(small, rate=0.5)
    assert refusal.value.retry_after_s == 4


def test_asks_for_the_length_only_where_the_last_job_did_not_tell_of_much_room(
    client: redis.Redis, keys: Keys
) -> None:
    now = 100.0
    into = Producer(client, keys, dataclasses.replace(LIMITS, queue_jobs=12), monotonic=lambda: now)

    def asked() -> int:
        """How often Redis was asked for the lengths of the two lists, so far."""
        return calls(client, "llen") // 2

    def admitted(*, rate: float = 0.0) -> int:
        """How often Redis was asked for this job."""
        before = asked()
        into.admit(MODEL, size=1, timeout_s=1, pace=Pace(rate))
        return asked() - before

    assert admitted() == 1  # nothing was told yet
    into.enqueue(MODEL, job())
    into.enqueue(MODEL, job())
    assert admitted() == 0
    enqueue(client, keys, *(job() for _ in range(20)))  # by another frontend
    assert admitted() == 0
    now += 0.06
    before = asked()
    with pytest.raises(Overloaded):
        admitted()
    assert asked() - before == 1

    client.delete(keys.of(MODEL).queue)
    into.enqueue(MODEL, job())
    client.delete(keys.of(MODEL).queue)
    # One waits, and that would take too long: a refusal is never by what was told.
    assert admitted(rate=0.1) == 1
    for _ in range(3):
        into.enqueue(MODEL, job())
    assert admitted() == 1  # 3 of 12: others could fill it meanwhile


@pytest.mark.parametrize(("rate", "advice"), [(0.0, 1), (1000.0, 1), (0.001, MAX_RETRY_AFTER_S)])
def test_the_advice_when_to_come_back_is_bounded(
    client: redis.Redis, keys: Keys, rate: float, advice: int
) -> None:
    enqueue(client, keys, job())
    with pytest.raises(Overloaded) as refusal:
        admit(producer(client, keys, dataclasses.replace(LIMITS, queue_jobs=1)), rate=rate)
    assert refusal.value.retry_after_s == advice


def test_refuses_when_the_queue_has_as_many_bytes_as_it_may(client: redis.Redis, keys: Keys) -> None:
    small = producer(client, keys, dataclasses.replace(LIMITS, queue_bytes=2500))
    enqueue(client, keys, job())
    admit(small, size=1250)
    with pytest.raises(Overloaded):
        admit(small, size=1251)


def test_the_size_that_is_judged_is_that_of_a_job() -> None:
    for spec in (SPEC, InputSpec(224, 224, 3, Fit.STRETCH)):
        largest = structs.replace(
            job(shape=spec.shape),
            reply_to=job().id,
            traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
            original_size=(50_000_000, 50_000_000),
            top=1000,
            input=spec.tag,
            request_id="r" * 128,
        )
        assert codec.job_size(spec) - 300 < len(codec.encode_job(largest)) <= codec.job_size(spec)


def test_a_lost_reply_is_no_second_job(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, calls = Pipeline.execute, []

    def execute_and_lose_the_reply(self: Pipeline, *args: bool) -> None:
        calls.append(execute(self, *args))
        raise redis.ConnectionError("the reply is lost")

    monkeypatch.setattr(Pipeline, "execute", execute_and_lose_the_reply)
    producer(client, keys).enqueue(MODEL, job())
    assert len(calls) == 1
    assert client.llen(keys.of(MODEL).queue) == 1


def test_a_lost_request_is_sent_again(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, calls = Pipeline.execute, []

    def lose_the_first(self: Pipeline, *args: bool) -> list[object]:
        calls.append(self)
        if len(calls) == 1:
            raise redis.ConnectionError("the request is lost")
        return execute(self, *args)

    monkeypatch.setattr(Pipeline, "execute", lose_the_first)
    producer(client, keys).enqueue(MODEL, job())
    assert client.llen(keys.of(MODEL).queue) == 1


def test_polling(client: redis.Redis, keys: Keys) -> None:
    maker = producer(client, keys)
    waiting, late, done = enqueue(client, keys, job(), job(deadline_in_s=-0.1), job())
    result = Result(id=done.id, model=MODEL, model_version="v1")
    client.set(keys.of(MODEL).result(done.id), codec.encode(result))
    assert maker.poll(MODEL, waiting.id) == PendingJob(deadline_passed=False)
    assert maker.poll(MODEL, late.id) == PendingJob(deadline_passed=True)
    assert maker.poll(MODEL, done.id) == result
    assert maker.poll(MODEL, job().id) is None


def test_at_the_deadline_a_result_is_taken_and_a_pending_job_cancelled(
    client: redis.Redis, keys: Keys
) -> None:
    maker = producer(client, keys)
    pending, done = enqueue(client, keys, job(), job())
    result = Result(id=done.id, model=MODEL, model_version="v1")
    client.set(keys.of(MODEL).result(done.id), codec.encode(result))
    assert maker.take_or_cancel(MODEL, done.id) == result
    assert maker.take_or_cancel(MODEL, pending.id) is None
    assert not client.exists(keys.of(MODEL).result(pending.id))


def test_a_redis_that_is_away_is_said_so(own_redis: RedisServer, keys: Keys) -> None:
    maker = producer(connect(own_redis.url, timeout_s=0.9), keys)
    own_redis.stop(kill=True)
    with pytest.raises(BrokerUnavailable, match="no connection"):
        maker.enqueue(MODEL, job())


def test_that_redis_takes_no_jobs_is_told_once_by_all_requests_and_so_is_its_end(
    own_redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(own_redis.url, timeout_s=5)
    maker = Producer(client, keys, LIMITS, refusals=Outage("Jobs are refused"))

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "broker.outage"]

    with ThreadPoolExecutor(4) as threads:
        client.config_set("maxmemory", "1")
        refused = [threads.submit(maker.enqueue, MODEL, job()) for _ in range(20)]
        assert all(isinstance(future.exception(), BrokerUnavailable) for future in refused)
        assert told() == [f"{MODEL}: Redis can't take a job: it is out of memory. Jobs are refused."]
        maker.admit(MODEL, size=1, timeout_s=1, pace=Pace(1, 1))  # which only reads
        assert len(told()) == 1
        client.config_set("maxmemory", "0")
        # In this thread, which has not failed; those that have live on, and may take no request any more.
        maker.enqueue(MODEL, job())
    assert told()[1].startswith(f"{MODEL}: Redis takes it again, after ")
    own_redis.stop(kill=True)
    with pytest.raises(BrokerUnavailable, match="no connection"):
        maker.enqueue(MODEL, job())
    assert len(told()) == 2
    client.close()


def test_a_job_without_a_queue_is_pending_then_has_its_result(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    job_id = job().id
    its.begin(MODEL, job_id, time_s=0.2)
    pending = its.poll(MODEL, job_id)
    assert isinstance(pending, PendingJob)
    assert not pending.deadline_passed
    its.finish(Result(job_id, MODEL, "v1", steps={"all": {"success": True}}))
    assert result(client, keys, job_id).steps == {"all": {"success": True}}
    assert client.llen(keys.of(MODEL).queue) == 0
    assert 0 < client.ttl(keys.of(MODEL).result(job_id)) <= RESULT_TTL_S


def test_a_job_without_a_queue_ends_at_its_deadline(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    job_id = job().id
    its.begin(MODEL, job_id, time_s=0)
    pending = its.poll(MODEL, job_id)
    assert isinstance(pending, PendingJob)
    assert pending.deadline_passed


def test_a_cancelled_job_gets_no_result_later(client: redis.Redis, keys: Keys) -> None:
    its = producer(client, keys)
    job_id = job().id
    its.begin(MODEL, job_id, time_s=5)
    its.cancel(MODEL, job_id)
    its.finish(Result(job_id, MODEL, "v1"))
    assert its.poll(MODEL, job_id) is None
