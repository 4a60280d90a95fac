"""Replies on a real Redis: a waiter is woken by the message, and by the key where the message is lost."""

import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis
from msgspec import structs
from redis.client import PubSub

from broker import codec
from broker.connection import connect
from broker.keys import Keys
from broker.lost_jobs import QueuedJob
from broker.messages import Result
from broker.replies import Replies, Waiter
from tests.support.channels import publish, subscribers
from tests.support.fakes import MODEL, enqueue, job
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

NEVER_S = 1000.0


def _result(job_id: str) -> Result:
    return Result(id=job_id, model=MODEL, model_version="v1")


@pytest.fixture
def make(redis_url: str, keys: Keys) -> Iterator[Callable[[float], Replies]]:
    made: list[Replies] = []

    def start(reread_s: float) -> Replies:
        replies = Replies(connect(redis_url, timeout_s=5), keys, "web-1", reread_s=reread_s)
        made.append(replies)
        replies.start()
        assert replies.is_subscribed(20)
        return replies

    yield start
    for replies in made:
        replies.stop()


def test_a_message_wakes_its_waiter_without_any_look_up(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(4.0)
    wanted, other = replies.expect(MODEL, "a"), replies.expect(MODEL, "b")
    # No key is written: only the message can wake it.
    client.publish(keys.results_channel("web-1"), codec.encode(_result("a")))
    assert wanted.wait(20) == _result("a")
    assert other.wait(0) is None


def test_a_lost_message_is_made_good_by_the_key(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(0.2)
    waiter = replies.expect(MODEL, "a")
    client.set(keys.of(MODEL).result("a"), codec.encode(_result("a")))
    waiter.is_enqueued = True  # not before: a look at the key would find none
    assert waiter.wait(20) == _result("a")


def test_a_subscription_that_has_gone_deaf_is_made_anew(
    client: redis.Redis,
    keys: Keys,
    make: Callable[[float], Replies],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("broker.replies.DEAF_S", 0.3)
    with monkeypatch.context() as deaf:
        deaf.setattr("redis.client.PubSub.ping", lambda *_: None)  # as if the link had been forgotten
        replies = make(0.1)
        eventually(lambda: "does not answer pings" in caplog.text)
    eventually(replies.is_subscribed)
    wanted = replies.expect(MODEL, "a")
    client.publish(keys.results_channel("web-1"), codec.encode(_result("a")))
    assert wanted.wait(20) == _result("a")


@pytest.mark.slow
def test_pings_keep_a_quiet_subscription(
    make: Callable[[float], Replies], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("broker.replies.DEAF_S", 3.0)
    replies = make(0.1)
    pings: list[object] = []
    ping = PubSub.ping
    monkeypatch.setattr(PubSub, "ping", lambda *arguments: pings.append(ping(*arguments)))
    eventually(lambda: len(pings) > 20)  # of 0.25 s each: for longer than a deaf one is borne
    assert "does not answer pings" not in caplog.text
    assert replies.is_subscribed()


def test_a_pending_key_wakes_nobody(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(0.05)
    waiter = replies.expect(MODEL, "a")
    client.set(keys.of(MODEL).result("a"), b"pending q 1.000 2.000")
    waiter.is_enqueued = True
    assert waiter.wait(0.5) is None
    assert not waiter.take_forgotten()


def test_who_left_gets_nothing(client: redis.Redis, keys: Keys, make: Callable[[float], Replies]) -> None:
    replies = make(4.0)
    left, stays = replies.expect(MODEL, "a"), replies.expect(MODEL, "b")
    replies.forget(left)
    for job_id in ("a", "b"):
        client.publish(keys.results_channel("web-1"), codec.encode(_result(job_id)))
    assert stays.wait(20) is not None
    assert left.wait(0) is None


def test_rubbish_on_the_channel_does_not_end_the_thread(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(4.0)
    waiter = replies.expect(MODEL, "a")
    client.publish(keys.results_channel("web-1"), b"\xff{")
    client.publish(keys.results_channel("web-1"), codec.encode(_result("a")))
    assert waiter.wait(20) == _result("a")


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_result_that_can_t_be_read_ends_its_wait(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies], is_lost: bool
) -> None:
    """By its message, or by its key where that is lost."""
    replies = make(0.1 if is_lost else 4.0)
    job_id = str(uuid.uuid4())
    waiter = replies.expect(MODEL, job_id)
    unreadable = codec.encode(_result(job_id)).replace(b'"v1"', b"null")
    if is_lost:
        client.set(keys.of(MODEL).result(job_id), unreadable)
        waiter.is_enqueued = True
    else:
        client.publish(keys.results_channel("web-1"), unreadable)
    result = waiter.wait(20)
    assert result is not None
    assert result.error is not None
    assert (result.id, result.error.code) == (job_id, "inference_failed")


def test_after_a_restart_of_redis_all_that_wait_are_looked_up_and_both_ends_of_it_are_told(
    own_redis: RedisServer, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    replies = Replies(connect(own_redis.url, timeout_s=5), keys, "web-1", reread_s=4.0)
    replies.start()
    try:
        assert replies.is_subscribed(20)
        waiter = replies.expect(MODEL, "a")
        with connect(own_redis.url, timeout_s=5) as client:
            client.set(keys.of(MODEL).result("a"), codec.encode(_result("a")))
        waiter.is_enqueued = True
        own_redis.until_written()
        own_redis.stop(kill=True)
        eventually(lambda: not replies.is_subscribed())
        own_redis.start()
        assert waiter.wait(20) == _result("a")
        eventually(lambda: "Redis is back, after " in caplog.text)
        said = [record.getMessage() for record in caplog.records if record.name == "broker.outage"]
        assert said[0].endswith(" Trying again.")
        assert said[-1].startswith("Redis is back, after ")
    finally:
        replies.stop()


@pytest.mark.slow
def test_a_job_that_redis_has_forgotten_wakes_its_waiter(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(0.05)
    waiter = replies.expect(MODEL, "a")
    waiter.is_enqueued = True
    eventually(waiter.take_forgotten)
    client.set(keys.of(MODEL).result("a"), b"pending q 1.000 2.000")
    assert waiter.wait(0.5) is None
    waiter.take_forgotten()  # it may have been looked up just before
    assert waiter.wait(0.3) is None
    assert not waiter.take_forgotten()
    client.set(keys.of(MODEL).result("a"), codec.encode(_result("a")))
    assert waiter.wait(20) == _result("a")


@pytest.mark.parametrize("trouble", ["gone", "of another type"])
def test_a_job_whose_list_is_gone_wakes_its_waiter(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies], trouble: str
) -> None:
    replies = make(0.05)
    lost, there = job(), structs.replace(job(now=time.time() + 60), lane="ann@100")
    waiters = [replies.expect(MODEL, each.id) for each in (lost, there)]
    for each, waiter in zip((lost, there), waiters, strict=True):
        enqueue(client, keys, each)
        waiter.queued, waiter.look_s = QueuedJob(each.id, each.lane, False, each.accepted_at), 0.2
        waiter.is_enqueued = True
    eventually(lambda: waiters[1].look_s > 0.2)
    assert not any(waiter.take_forgotten() for waiter in waiters)
    client.delete(keys.of(MODEL).queue)
    if trouble == "gone":
        eventually(waiters[0].take_forgotten)
    else:
        client.set(keys.of(MODEL).queue, "x")
        eventually(lambda: waiters[0].look_s > 1)
        # The subscription has outlived that.
        client.publish(keys.results_channel("web-1"), codec.encode(_result(lost.id)))
        assert waiters[0].wait(20) == _result(lost.id)
    assert not waiters[1].take_forgotten()


def test_a_job_that_was_not_yet_accepted_can_not_be_forgotten(make: Callable[[float], Replies]) -> None:
    replies = make(0.05)
    waiter = replies.expect(MODEL, "a")
    assert waiter.wait(0.5) is None
    assert not waiter.take_forgotten()


def test_a_polled_job_s_own_channel_wakes_all_its_waiters(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(NEVER_S)
    client.set(keys.of(MODEL).result("a"), b"pending q 1.000 2.000")
    waiters = [replies.follow(MODEL, "a") for _ in range(2)]
    eventually(lambda: subscribers(client, keys, MODEL, "a") == 1)
    # Its key stays pending: only the message can wake them.
    publish(client, keys, MODEL, "a", codec.encode(_result("a")))
    assert [waiter.wait(20) for waiter in waiters] == [_result("a")] * 2


def test_a_result_from_before_the_subscription_is_looked_up_at_once(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(NEVER_S)
    client.set(keys.of(MODEL).result("a"), codec.encode(_result("a")))
    assert replies.follow(MODEL, "a").wait(20) == _result("a")


def test_a_process_leaves_the_channel_with_its_last_poller(
    client: redis.Redis, keys: Keys, make: Callable[[float], Replies]
) -> None:
    replies = make(NEVER_S)
    client.set(keys.of(MODEL).result("a"), b"pending q 1.000 2.000")
    first, second = (replies.follow(MODEL, "a") for _ in range(2))
    eventually(lambda: subscribers(client, keys, MODEL, "a") == 1)
    replies.forget(first)
    publish(client, keys, MODEL, "a", codec.encode(_result("a")))
    assert second.wait(20) == _result("a")
    assert first.wait(0) is None
    replies.forget(second)
    eventually(lambda: subscribers(client, keys, MODEL, "a") == 0)


def test_a_waiter_that_is_woken_without_a_result_sleeps_again() -> None:
    waiter = Waiter("m", "job", 0.0)
    waiter.wake()
    assert waiter.wait(60) is None
    began = time.monotonic()
    assert waiter.wait(0.05) is None
    assert time.monotonic() - began >= 0.05
    waiter.mark_forgotten()
    assert [waiter.wait(60), waiter.take_forgotten(), waiter.take_forgotten()] == [None, True, False]
    result = Result(id="job", model="m", model_version="v1")
    waiter.wake()
    waiter.put(result)
    assert waiter.wait(60) == result
