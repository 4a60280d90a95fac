"""One model's queue in four shards: what is accepted is answered, whichever shard it stands in."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from broker.connection import connect
from broker.keys import Keys, ModelKeys, shard_of
from tests.support import http
from tests.support.keys_left import keys_of_jobs
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack, shade, web_up
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SHARDS = 4


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack of four shards, its web tier up and no model server yet."""
    made = Stack(tmp_path, own_redis.url)
    made.environment |= {"QUEUE_SHARDS": str(SHARDS), "RESULT_TTL_S": "20", "REQUEST_TIMEOUT_S": "60"}
    with web_up(made):
        yield made


def _send(stack: Stack, value: int, **headers: str) -> httpx.Response:
    files = {"image": ("x.png", shade(value))}
    return http.post(f"{stack.url}/predict", files=files, headers=headers, timeout=90)


def _label(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return int(answer.json()["predictions"][0]["label"])


def _parts() -> list[ModelKeys]:
    own = Keys("bw:").of(MODEL)
    return [own, *map(own.of_shard, range(SHARDS))]


def _claimed(redis_url: str) -> Counter[int]:
    """How many jobs some worker holds, by shard."""
    with connect(redis_url, timeout_s=5) as client:
        return Counter(
            {
                part.shard: sum(client.llen(key) for key in client.keys(part.claims("*")))
                for part in _parts()
                if part.shard is not None
            }
        )


def _await_shards(stack: Stack, redis_url: str, workers: int) -> None:
    """Until new jobs are spread: so many workers are in each shard, and the web tier has read the card."""
    with connect(redis_url, timeout_s=5) as client:
        eventually(lambda: all(client.zcount(part.workers, 0, "+inf") == workers for part in _parts()))
    eventually(lambda: shard_of(_send(stack, 7).json()["id"]) is not None)


def test_each_picture_gets_its_own_answer_from_whichever_shard(stack: Stack, own_redis: RedisServer) -> None:
    stack.start_model_server()
    _await_shards(stack, own_redis.url, 1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda value: _send(stack, value), range(100)))
    assert [_label(answer) for answer in answers] == list(range(100))
    spread = Counter(shard_of(answer.json()["id"]) for answer in answers)
    assert set(spread) == set(range(SHARDS)), spread  # the chance that one is empty: 1e-12


def test_polled_jobs_are_found_named_and_cancelled_in_their_shards(
    stack: Stack, own_redis: RedisServer
) -> None:
    server = stack.start_model_server()
    _await_shards(stack, own_redis.url, 1)
    server.kill()
    server.wait(20)
    names = {f"name-{value}": value for value in range(12)}
    asks = {"Prefer": "respond-async"}
    accepted = {
        value: _send(stack, value, **{"Idempotency-Key": name}, **asks) for name, value in names.items()
    }
    assert [answer.status_code for answer in accepted.values()] == [202] * 12
    again = {value: _send(stack, value, **{"Idempotency-Key": name}, **asks) for name, value in names.items()}
    ids = {value: answer.json()["id"] for value, answer in accepted.items()}
    assert {value: answer.json()["id"] for value, answer in again.items()} == ids
    assert len({shard_of(job_id) for job_id in ids.values()}) > 1
    with connect(own_redis.url, timeout_s=5) as client:
        assert sum(client.llen(part.polled) for part in _parts()) == 12
    scaling = http.get(f"{stack.url}/scaling", timeout=10).json()
    assert scaling["jobs"] == 12
    cancelled = stack.url + accepted[3].headers["Location"]
    assert http.request("DELETE", cancelled, timeout=10).status_code == 204
    # Its successor is told of no shards at all, and finds them nevertheless.
    stack.environment["QUEUE_SHARDS"] = "1"
    stack.start_model_server()
    for value, answer in accepted.items():
        if value != 3:
            address = f"{stack.url}{answer.headers['Location']}&wait=30"
            assert _label(http.get(address, timeout=60)) == value
    assert http.get(cancelled, timeout=10).status_code == 404
    assert sorted(stack.executed()) == sorted([7, *(set(range(12)) - {3})])
    eventually(lambda: shard_of(_send(stack, 7).json()["id"]) is None)


def test_a_killed_worker_s_jobs_of_all_shards_are_recovered(stack: Stack, own_redis: RedisServer) -> None:
    victim = stack.start_model_server(delay_s=1.0)
    _await_shards(stack, own_redis.url, 1)
    with ThreadPoolExecutor(24) as pool:
        sent = [pool.submit(_send, stack, value) for value in range(24)]
        eventually(lambda: len(+_claimed(own_redis.url)) > 1)
        victim.kill()
        victim.wait(20)
        stack.start_model_server()
        assert [_label(each.result()) for each in sent] == list(range(24))
    eventually(lambda: not +_claimed(own_redis.url))
    with connect(own_redis.url, timeout_s=5) as client:
        eventually(
            lambda: not any(":result:" in key or ":attempts" in key for key in keys_of_jobs(client)),
            within_s=40,
        )
