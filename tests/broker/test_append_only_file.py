"""The rewriting of Redis' append-only file: a picture that was answered is in no file any more."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import pytest
import redis
from msgspec import structs

from broker.append_only_file import rewrite
from broker.connection import connect
from broker.consumer import CompletedJob
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import Job, Result
from tests.support.fakes import MODEL, READY, consumer, job, lease, producer
from tests.support.private_files import files_with
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually


@dataclass
class Sent:
    """A job of noise."""

    job: Job
    pixels: bytes


def _send(client: redis.Redis, keys: Keys) -> Sent:
    pixels = os.urandom(64 * 64)
    noise = structs.replace(
        job(shape=(64, 64, 1)), image=np.frombuffer(pixels, np.uint8).reshape(64, 64, 1), polled=True
    )
    producer(client, keys).enqueue(MODEL, noise)
    return Sent(noise, pixels)


def _answer(client: redis.Redis, keys: Keys, sent: Sent, *, dead_reason: str = "") -> None:
    worker = lease(client, keys).register(READY)
    taker = consumer(client, keys)
    (claimed,) = taker.claim(worker, 8)
    outcome = CompletedJob(claimed.id, Result(sent.job.id, MODEL, "v1"), None, dead_reason)
    assert taker.complete(worker, [outcome])


@pytest.mark.slow
def test_an_answered_picture_is_in_no_file_after_it_and_one_that_waits_is(
    own_redis: RedisServer, keys: Keys
) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        answered = _send(client, keys)
        _answer(client, keys, answered)
        waits = _send(client, keys)
        assert files_with(own_redis.folder, answered.pixels)
        rewrite(client, within_s=20)
        assert files_with(own_redis.folder, answered.pixels) == []
        # That it can be found in what a rewrite makes, too.
        assert files_with(own_redis.folder, waits.pixels)
        _answer(client, keys, waits, dead_reason="poison")
        rewrite(client, within_s=20)
        assert files_with(own_redis.folder, waits.pixels)  # a dead letter is kept for its operator
        client.delete(keys.of(MODEL).dead)
        rewrite(client, within_s=20)
        assert files_with(own_redis.folder, waits.pixels) == []
        own_redis.until_written()
        own_redis.stop(kill=True)
        own_redis.start()
        assert client.get(keys.of(MODEL).result(answered.job.id))


def _slow_down(client: redis.Redis) -> None:
    """Let a rewrite take two seconds: 10 ms for each of 200 keys."""
    client.config_set("rdb-key-save-delay", 10_000)
    for number in range(200):
        client.set(f"filler:{number}", "x")


@pytest.mark.slow
def test_one_that_runs_already_is_waited_for_and_done_again(own_redis: RedisServer, keys: Keys) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        _slow_down(client)
        sent = _send(client, keys)
        client.bgrewriteaof()
        client.config_set("rdb-key-save-delay", 0)
        _answer(client, keys, sent)
        rewrite(client, within_s=20)
        assert files_with(own_redis.folder, sent.pixels) == []


@pytest.mark.slow
def test_a_failure_is_said(own_redis: RedisServer) -> None:
    redis_process = psutil.Process(own_redis.pid)
    with connect(own_redis.url, timeout_s=5) as client, ThreadPoolExecutor(1) as pool:
        _slow_down(client)
        killed = pool.submit(rewrite, client, within_s=20)
        eventually(lambda: len(redis_process.children()) == 1)
        redis_process.children()[0].kill()
        with pytest.raises(BrokerUnavailable, match="its log says why"):
            killed.result()
        with pytest.raises(BrokerUnavailable, match="in time"):
            rewrite(client, within_s=0.1)
