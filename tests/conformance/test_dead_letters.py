"""DeadLetters on a real Redis: what is listed, refused and dropped, and how a job goes back."""

import dataclasses
import time
from pathlib import Path

import msgspec
import pytest
import redis

from broker import codec
from broker.consumer import DEAD_TTL_S, CompletedJob
from broker.dead_letters import DeadLetter, DeadLetters
from broker.errors import ClientError, MalformedMessage, Overloaded
from broker.keys import Keys
from broker.messages import Job, Pace, Result
from broker.producer import Limits
from tests.support import fakes
from tests.support.fakes import (
    LIMITS,
    MODEL,
    READY,
    FakeEngine,
    consumer,
    enqueue,
    is_pending,
    job,
    lease,
    producer,
)
from tests.support.redis_server import client_of
from tests.support.waiting import eventually

TIMEOUT_S = 300.0


def box(client: redis.Redis, keys: Keys, limits: Limits = LIMITS) -> DeadLetters:
    """The dead letters of the tiny model."""
    return DeadLetters(client_of(client, "operator"), keys, MODEL, limits)


def bury(client: redis.Redis, keys: Keys, *jobs: Job, reason: str = "it is poison") -> list[Job]:
    """Put jobs into `dead` the way a worker does."""
    enqueue(client, keys, *jobs)
    bury_queue(client, keys, reason)
    return list(jobs)


def bury_queue(client: redis.Redis, keys: Keys, reason: str) -> None:
    """The same for what is in the queue already."""
    worker = lease(client, keys).register(READY)
    taker = consumer(client, keys)
    claimed = taker.claim(worker, 100)
    outcomes = [CompletedJob(each.id, Result(each.id, MODEL, "v1"), None, reason) for each in claimed]
    assert taker.complete(worker, outcomes)
    client.delete(keys.of(MODEL).bell)


def queued(client: redis.Redis, keys: Keys) -> list[Job]:
    """The jobs in the queue, in order: those that clients wait for, then those that they poll for."""
    names = keys.of(MODEL)
    payloads = [*client.lrange(names.queue, 0, -1), *client.lrange(names.polled, 0, -1)]
    return [codec.decode_job(each) for each in payloads if isinstance(each, bytes)]


def _letter(each: Job, reason: str) -> DeadLetter:
    size = len(codec.encode_job(each))
    return DeadLetter(each.id, reason, size, each.image.shape, each.original_size, each.accepted_at)


def test_an_entry_says_what_the_job_was_and_why_it_is_dead(client: redis.Redis, keys: Keys) -> None:
    assert box(client, keys).entries() == []
    reason = 'It said "no","job":{ and\nmore \\ ü.'
    first, second = bury(client, keys, job(), job(shape=(3, 4, 1)), reason=reason)
    assert box(client, keys).entries() == [_letter(first, reason), _letter(second, reason)]


def test_a_job_goes_back_under_a_fresh_id_as_one_that_is_polled(client: redis.Redis, keys: Keys) -> None:
    began = time.time()
    old = msgspec.structs.replace(job(value=7, reply_to="web-1", now=1000.0), traceparent="00-a-b-01")
    bury(client, keys, old)
    fresh_id = box(client, keys).requeue(old.id, timeout_s=TIMEOUT_S, pace=Pace())
    (again,) = queued(client, keys)
    assert again.id == fresh_id != old.id
    assert began - 1 <= again.accepted_at <= time.time() + 1
    assert again.deadline == again.accepted_at + TIMEOUT_S
    assert again.reply_to is None
    assert again.polled
    assert (again.image == old.image).all()
    kept = ("original_size", "top", "traceparent")
    assert [getattr(again, name) for name in kept] == [getattr(old, name) for name in kept]
    assert is_pending(client, keys, fresh_id)
    pending = codec.encode_pending(again.accepted_at, again.deadline, where=codec.POLLED)
    assert client.get(keys.of(MODEL).result(fresh_id)) == pending
    assert client.llen(keys.of(MODEL).bell) == 1
    assert box(client, keys).entries() == []


def test_a_job_goes_back_by_redis_clock_on_a_host_whose_own_is_wrong(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (old,), (seconds, _), host = bury(client, keys, job()), client.time(), time.time
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: host() + 3600)
        fresh_id = box(client, keys).requeue(old.id, timeout_s=TIMEOUT_S, pace=Pace())
    made_at = producer(client, keys).ids.made_at(fresh_id, MODEL)
    assert made_at is not None
    assert abs(made_at - seconds) < 60
    assert abs(float(client.get(keys.of(MODEL).asked) or 0) - seconds) < 60


def test_where_pictures_are_dropped_a_dead_letter_says_why_it_can_t_be_queued_again(
    client: redis.Redis, keys: Keys
) -> None:
    taker = consumer(client, keys, keeps_dead_pictures=False)
    sent = msgspec.structs.replace(
        job(value=7, shape=(40, 40, 1)), request_id="request-1", notice='{"image":"x"}'
    )
    enqueue(client, keys, sent)
    garbage = b'{"id":"' + b"g" * 36 + b'" pixels'
    client.rpush(keys.of(MODEL).queue, garbage)
    worker = lease(client, keys).register(READY)
    claimed = taker.claim(worker, 8)
    assert taker.complete(worker, [CompletedJob(each.id, None, None, "it is poison") for each in claimed])
    kept, entries = client.lrange(keys.of(MODEL).dead, 0, -1), box(client, keys).entries()
    assert b'"image":""' in kept[0]
    assert b"pixels" not in kept[1]
    assert entries[0] == dataclasses.replace(
        _letter(sent, "it is poison"), size=entries[0].size, request_id="request-1"
    )
    assert entries[0].size < len(codec.encode_job(sent))
    with pytest.raises(ClientError, match="DEAD_LETTER_PICTURES=drop"):
        box(client, keys).requeue(sent.id, timeout_s=TIMEOUT_S, pace=Pace())
    for entry in entries:
        box(client, keys).drop(entry.id)
    assert box(client, keys).entries() == []


def test_only_the_one_that_was_named_goes_and_the_others_are_kept_alive(
    client: redis.Redis, keys: Keys
) -> None:
    first, second, third = bury(client, keys, job(), job(), job())
    client.expire(keys.of(MODEL).dead, 10)
    box(client, keys).requeue(second.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert [each.id for each in box(client, keys).entries()] == [first.id, third.id]
    assert DEAD_TTL_S - 60 < client.ttl(keys.of(MODEL).dead) <= DEAD_TTL_S


def test_a_requeued_job_is_claimed_run_and_polled_under_its_new_id(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bad build of the network")

    engine = FakeEngine(fail)
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    (old,) = enqueue(client, keys, job(value=255))
    assert fakes.step(worker) == 1
    engine.on_batch = len
    (letter,) = box(client, keys).entries()
    assert (letter.id, "a bad build" in letter.reason) == (old.id, True)
    fresh_id = box(client, keys).requeue(old.id, timeout_s=TIMEOUT_S, pace=Pace())
    eventually(lambda: fakes.step(worker) == 1)
    polled, before = (fakes.producer(client, keys).poll(MODEL, each) for each in (fresh_id, old.id))
    assert isinstance(polled, Result)
    assert (polled.id, polled.predictions[0].label, polled.attempts) == (fresh_id, "bright", 0)
    assert isinstance(before, Result)
    assert before.error is not None
    assert client.llen(keys.of(MODEL).dead) == 0
    worker.pipeline.close()


@pytest.mark.parametrize(
    ("payload", "has_id"),
    [
        (b'{"id":"11111111-2222-4333-8444-555555555555","image":"AA', True),
        (b'{"id":"11111111-2222-4333-8444-555555555555"}', True),
        (b'{"id":"not a job', False),
        (b'{"id":"' + b"\x1b" * 36 + b'"}', False),
        (b"\x00\xff\xfe\n\n", False),
        (b"", False),
        (b'[1,2]}],"job":{}', False),
    ],
)
def test_a_job_that_can_t_be_read_is_listed_and_dropped_but_not_requeued(
    client: redis.Redis, keys: Keys, payload: bytes, has_id: bool
) -> None:
    client.rpush(keys.of(MODEL).queue, payload)
    bury_queue(client, keys, "The job can't be read.")
    (letter,) = box(client, keys).entries()
    name = "11111111-2222-4333-8444-555555555555" if has_id else letter.id
    assert letter == DeadLetter(name, "The job can't be read.", len(payload))
    assert has_id or letter.id.startswith("entry-")
    with pytest.raises(MalformedMessage, match=letter.id):
        box(client, keys).requeue(letter.id, timeout_s=TIMEOUT_S, pace=Pace())
    assert box(client, keys).entries() == [letter]
    assert queued(client, keys) == []
    box(client, keys).drop(letter.id)
    assert box(client, keys).entries() == []


@pytest.mark.parametrize("entry", [b"", b"\xff", b'{"reason":"\\x","job":}', b"[]"])
def test_an_entry_of_a_form_that_nobody_wrote_is_listed_too(
    client: redis.Redis, keys: Keys, entry: bytes
) -> None:
    client.rpush(keys.of(MODEL).dead, entry)
    (letter,) = box(client, keys).entries()
    assert (letter.reason, letter.shape, letter.id[:6]) == ("", None, "entry-")
    box(client, keys).drop(letter.id)
    assert not client.exists(keys.of(MODEL).dead)


@pytest.mark.parametrize("bound", [{"queue_jobs": 1}, {"queue_bytes": 400}], ids=["jobs", "bytes"])
def test_a_full_queue_refuses_and_nothing_has_changed(
    client: redis.Redis, keys: Keys, bound: dict[str, int]
) -> None:
    (dead,) = bury(client, keys, job())
    (waiting,) = enqueue(client, keys, job())
    small = box(client, keys, dataclasses.replace(LIMITS, **bound))
    with pytest.raises(Overloaded, match="1 pictures wait for tiny already") as refusal:
        small.requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace(0.25))
    assert refusal.value.retry_after_s == 4
    assert [each.id for each in queued(client, keys)] == [waiting.id]
    assert [each.id for each in small.entries()] == [dead.id]
    client.delete(keys.of(MODEL).queue)
    assert small.requeue(dead.id, timeout_s=TIMEOUT_S, pace=Pace())


def test_a_dropped_one_is_gone_and_runs_no_more(client: redis.Redis, keys: Keys) -> None:
    first, second = bury(client, keys, job(), job())
    client.lpush(keys.of(MODEL).dead, client.lrange(keys.of(MODEL).dead, 0, 0)[0])
    for left in ([first.id, second.id], [second.id]):
        box(client, keys).drop(first.id)
        assert [each.id for each in box(client, keys).entries()] == left
    assert queued(client, keys) == []


def test_an_id_that_is_not_there_is_refused(client: redis.Redis, keys: Keys) -> None:
    (dead,) = bury(client, keys, job())
    unknown = job().id
    with pytest.raises(ClientError, match=f"tiny has no dead letter {unknown}"):
        box(client, keys).requeue(unknown, timeout_s=TIMEOUT_S, pace=Pace())
    with pytest.raises(ClientError, match=unknown):
        box(client, keys).drop(unknown)
    assert [each.id for each in box(client, keys).entries()] == [dead.id]
    assert queued(client, keys) == []


def test_no_key_of_it_is_without_an_end(client: redis.Redis, keys: Keys) -> None:
    first, _, third = bury(client, keys, job(), job(), job())
    box(client, keys).requeue(first.id, timeout_s=TIMEOUT_S, pace=Pace())
    box(client, keys).drop(third.id)
    assert all(client.ttl(name) > 0 for name in client.keys() if name != keys.id_secret.encode())
