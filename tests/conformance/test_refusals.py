"""A Redis that refuses: full, its disk full, busy, paused, or with a key of another type for one model.

Each is a real server in that state. What was accepted drains where Redis lets it, the rest is refused in
words, and all is well by itself afterwards.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis

from broker.clock import RedisClock
from broker.cluster import is_cluster, node_of
from broker.connection import connect
from broker.consumer import CompletedJob, Consumer
from broker.dead_letters import DeadLetters
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import Job, Result
from broker.outage import Outage
from broker.producer import PendingJob, Producer
from broker.registry import Registry
from broker.replies import Replies
from tests.support import fakes
from tests.support.fakes import LIMITS, MODEL, READY, consumer, enqueue, job, lapse, lease, producer
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # together they wait for seconds

LARGE = (256, 256, 3)
"""Of a picture whose job takes 260 KB."""


@pytest.fixture
def server(own_redis: RedisServer) -> RedisServer:
    """A server for this test alone, which is not to be trusted afterwards."""
    return own_redis


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    """A client of that server."""
    with connect(server.url, timeout_s=5) as connection:
        yield connection


def _finish(client: redis.Redis, keys: Keys, worker: str, count: int) -> list[str]:
    """Claim up to `count` jobs and complete them; the ids."""
    ids = [each.id for each in consumer(client, keys).claim(worker, count)]
    done = [CompletedJob(each, Result(id=each, model=MODEL, model_version="v1")) for each in ids]
    if done:
        assert consumer(client, keys).complete(worker, done)
    return ids


def _fill(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")


def test_a_full_redis_refuses_jobs_and_leaves_nothing_of_them(client: redis.Redis, keys: Keys) -> None:
    _fill(client)
    refused = job()
    with pytest.raises(BrokerUnavailable, match=r"^Redis can't take a job: it is out of memory\.$"):
        producer(client, keys).enqueue(MODEL, refused)
    assert client.keys() == []


def test_a_full_redis_drains(client: redis.Redis, keys: Keys) -> None:
    jobs = [each.id for each in enqueue(client, keys, *(job() for _ in range(6)))]
    worker = lease(client, keys)
    worker.register(READY)
    lost = lease(client, keys).register(READY)
    consumer(client, keys).claim(lost, 2)
    lapse(client, keys, lost)
    client.script_flush()  # as after a restart
    _fill(client)
    worker.renew()
    worker.announce(READY)
    assert worker.recover_lost() == {lost: 2}
    assert producer(client, keys).poll(MODEL, jobs[0]) == PendingJob(deadline_passed=False)
    # A job that was recovered comes alone.
    finished = [_finish(client, keys, worker.worker, 6) for _ in range(3)]
    assert [each for ids in finished for each in ids] == jobs
    assert all(isinstance(producer(client, keys).poll(MODEL, each), Result) for each in jobs)
    assert list(Registry(client, keys, RedisClock()).models()) == [MODEL]


def test_the_successor_of_a_killed_worker_registers_with_a_full_redis(
    client: redis.Redis, keys: Keys
) -> None:
    (only,) = enqueue(client, keys, job())
    lost = lease(client, keys).register(READY)
    consumer(client, keys).claim(lost, 1)
    lapse(client, keys, lost)
    _fill(client)
    successor = lease(client, keys)
    successor.register(READY)
    assert successor.recover_lost() == {lost: 1}
    assert consumer(client, keys).claim(successor.worker, 1)[0].id == only.id
    assert successor.give_back() == 1
    assert successor.leave() == 0


def test_a_dead_letter_can_be_dropped_to_make_room(client: redis.Redis, keys: Keys) -> None:
    (only,) = enqueue(client, keys, job())
    worker = lease(client, keys).register(READY)
    consumer(client, keys).claim(worker, 1)
    consumer(client, keys).complete(worker, [CompletedJob(only.id, None, None, "bad")])
    _fill(client)
    DeadLetters(client, keys, MODEL, LIMITS).drop(only.id)
    assert not client.exists(keys.of(MODEL).dead)


def test_what_was_accepted_until_memory_ran_out_is_answered_and_more_is_accepted_then(
    client: redis.Redis, keys: Keys
) -> None:
    worker = lease(client, keys).register(READY)
    home = node_of(client, keys.of(MODEL).queue)
    home.config_set("maxmemory", home.info("memory")["used_memory"] + 3_000_000)
    accepted: list[Job] = []

    def accept_until_refused() -> None:
        while len(accepted) < 100:
            accepted.extend(enqueue(client, keys, job(shape=LARGE)))

    with pytest.raises(BrokerUnavailable, match="out of memory"):
        accept_until_refused()
    assert 5 < len(accepted) < 20
    # Full beyond what one job takes, as other clients' buffers make it.
    home.config_set("maxmemory", home.info("memory")["used_memory"] - 300_000)
    finished: list[str] = []
    while ids := _finish(client, keys, worker, 4):
        finished += ids
    assert finished == [each.id for each in accepted]
    eventually(lambda: bool(enqueue(client, keys, job(shape=LARGE))))


def test_with_its_disk_full_redis_says_so_keeps_what_it_has_and_goes_on_later(
    server: RedisServer, client: redis.Redis, keys: Keys
) -> None:
    (before,) = enqueue(client, keys, job())
    own = lease(client, keys)
    worker = own.register(READY)
    server.fill_disk()
    why = r"it can't write its append-only file \(\w.*\)\.$"

    def is_refused() -> bool:
        try:
            enqueue(client, keys, job())
        except BrokerUnavailable as error:
            return error.is_refusal and "append-only file" in error.detail
        return False

    try:
        eventually(is_refused)
        length = client.llen(keys.of(MODEL).queue)
        with pytest.raises(BrokerUnavailable, match="^Redis can't take a job: " + why):
            producer(client, keys).enqueue(MODEL, job())
        with pytest.raises(BrokerUnavailable, match="^Redis can't take a lease: " + why):
            own.renew()
        with pytest.raises(BrokerUnavailable, match="^Redis can't hand out jobs: " + why):
            consumer(client, keys).claim(worker, 1)
        assert producer(client, keys).poll(MODEL, before.id) == PendingJob(deadline_passed=False)
        assert client.llen(keys.of(MODEL).queue) == length
    finally:
        server.free_disk()
    eventually(lambda: not is_refused())
    own.renew()
    assert before.id in _finish(client, keys, worker, length + 1)


def test_the_subscription_outlives_a_full_disk(
    server: RedisServer, client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    replies = Replies(client, keys, "web-1", reread_s=0.1)
    replies.start()
    try:
        assert replies.is_subscribed(20)
        server.fill_disk()
        # More than ten pings are refused meanwhile, and longer than an idle subscription is believed.
        assert not threading.Event().wait(2.5)
        assert replies.is_subscribed()
        assert not caplog.records
    finally:
        server.free_disk()
        replies.stop()


WRONG = {
    "queue": "Redis can't take a job",
    "states": "Redis can't take this worker's state",
    "workers": "Redis can't take a lease",
    "attempts": "Redis can't hand out jobs",
}


def _use(client: redis.Redis, keys: Keys, model: str) -> list[str]:
    """Do all that processes do with a model; what they say of what they can't."""
    card = replace(fakes.CARD, model=model)
    own = lease(client, keys, card=card)
    told = []

    def enqueue_one() -> None:
        Producer(client, keys, LIMITS).enqueue(model, job())

    for step in (lambda: own.register(READY), enqueue_one, own.renew, lambda: own.announce(READY)):
        try:
            step()
        except BrokerUnavailable as error:
            told.append(error.detail)
    from_queue = Consumer(client, keys, model, key_ttl_s=60, result_ttl_s=60)
    try:
        claimed = [each.id for each in from_queue.claim(own.worker or "nobody", 9)]
        assert from_queue.complete(own.worker, [CompletedJob(each) for each in claimed])
    except BrokerUnavailable as error:
        told.append(error.detail)
    return told


@pytest.mark.parametrize("name", WRONG)
def test_a_key_of_another_type_is_named_and_disturbs_no_other_model(
    client: redis.Redis, keys: Keys, name: str
) -> None:
    assert _use(client, keys, "other") == []
    assert _use(client, keys, MODEL) == []
    key = getattr(keys.of(MODEL), name)
    client.delete(key)
    client.set(key, "what another program put here")
    told = _use(client, keys, MODEL)
    kind = {"workers": "sorted set", "queue": "list"}.get(name, "hash")
    assert f"{WRONG[name]}: {key} holds a string, where a {kind} belongs." in told
    assert _use(client, keys, "other") == []
    models = Registry(client, keys, RedisClock()).models()
    assert set(models) == {MODEL, "other"}
    assert models["other"].state is READY.state
    client.delete(key)
    eventually(lambda: _use(client, keys, MODEL) == [])


def test_a_job_whose_queue_is_none_is_refused_at_once_and_in_the_log(
    client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    into = Producer(client, keys, LIMITS, refusals=Outage("Such requests get 503"))
    client.set(keys.of(MODEL).queue, "x")
    with pytest.raises(BrokerUnavailable, match="holds a string, where a list belongs"):
        into.enqueue(MODEL, job())
    # Else a waiting client would wait for it until its deadline.
    assert client.keys(keys.of(MODEL).result("*")) == []
    (line,) = [record.getMessage() for record in caplog.records]
    queue = keys.of(MODEL).queue
    assert line == (
        f"{MODEL}: Redis can't take a job: {queue} holds a string, where a list belongs. "
        "Such requests get 503."
    )


def test_a_bell_of_another_type_stops_a_claim_before_it_has_changed_anything(
    client: redis.Redis, keys: Keys
) -> None:
    worker = lease(client, keys).register(READY)
    client.set(keys.of(MODEL).bell, "x")
    with pytest.raises(BrokerUnavailable, match="bell holds a string"):
        enqueue(client, keys, job())
    with pytest.raises(BrokerUnavailable, match="bell holds a string"):
        consumer(client, keys).claim(worker, 1)
    assert client.llen(keys.of(MODEL).claims(worker)) == 0


def test_results_are_written_even_where_dead_letters_can_not_be_kept(
    client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = enqueue(client, keys, job(), job())
    worker = lease(client, keys).register(READY)
    consumer(client, keys).claim(worker, 2)
    for name in ("dead", "attempts"):
        client.set(getattr(keys.of(MODEL), name), "x")
    done = [
        CompletedJob(each.id, Result(id=each.id, model=MODEL, model_version="v1"), None, "bad")
        for each in jobs
    ]
    assert consumer(client, keys).complete(worker, done)
    assert all(isinstance(producer(client, keys).poll(MODEL, each.id), Result) for each in jobs)
    assert client.llen(keys.of(MODEL).claims(worker)) == 0
    assert f"dead letters were not kept: {keys.of(MODEL).dead} is not a list" in caplog.messages


def test_a_redis_busy_with_a_script_is_away_for_all_and_well_again(
    server: RedisServer, client: redis.Redis, keys: Keys
) -> None:
    client.config_set("lua-time-limit", "100")
    (before,) = enqueue(client, keys, job())
    own = lease(client, keys, lease_s=0.5)
    worker = own.register(READY)
    spin = """local began = redis.call('TIME')
        repeat local now = redis.call('TIME')
        until now[1] - began[1] + (now[2] - began[2]) / 1e6 > 2"""

    def keep_busy() -> None:
        with connect(server.url, timeout_s=20) as other:
            other.eval(spin, 1, keys.of(MODEL).queue)

    script = threading.Thread(target=keep_busy)
    script.start()
    told: list[BrokerUnavailable] = []

    def is_told() -> bool:
        try:
            producer(client, keys).enqueue(MODEL, job())
        except BrokerUnavailable as error:
            told.append(error)
            return "busy with a script of another client" in error.detail
        return False

    eventually(is_told)
    assert not told[-1].is_refusal  # of one model: it is away for all
    webhooks = producer(client, keys).webhooks
    attempts: list[Callable[[], object]] = [own.renew, lambda: consumer(client, keys).claim(worker, 1)]
    if not is_cluster(client):  # there it is the trouble of that node's models alone
        attempts.append(lambda: webhooks.due(1))
    for attempt in attempts:
        with pytest.raises(BrokerUnavailable, match="busy with a script of another client"):
            attempt()
    script.join()
    own.renew()  # it lapsed meanwhile
    assert before.id in _finish(client, keys, worker, 100)


def test_paused_writes_are_given_up_in_time_and_not_done_later(
    server: RedisServer, client: redis.Redis, keys: Keys
) -> None:
    (before,) = enqueue(client, keys, job())
    worker = lease(client, keys).register(READY)
    hasty = connect(server.url, timeout_s=0.3)
    client.client_pause(2000, all=False)
    began = time.monotonic()
    refused = job()
    with pytest.raises(BrokerUnavailable, match="does not answer in time"):
        producer(hasty, keys).enqueue(MODEL, refused)
    assert time.monotonic() - began < 1.5
    assert producer(hasty, keys).poll(MODEL, before.id) == PendingJob(deadline_passed=False)
    client.client_unpause()
    assert _finish(client, keys, worker, 9) == [before.id]
    hasty.close()
