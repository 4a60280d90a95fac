"""A queue of three shards on a real Redis, from both sides: a worker serves all of them, and loses no job."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from msgspec import structs

from broker.admission import LENGTH_VALID_S
from broker.clock import RedisClock
from broker.consumer import CompletedJob
from broker.errors import IdempotencyKeyReused, LeaseLost, Overloaded
from broker.keys import Keys, ModelKeys, shard_of
from broker.lease import SHARDS_TTL_S
from broker.messages import Job, Pace, Result, Webhook
from broker.producer import Limits, PendingJob, Producer, RequestName
from broker.registry import Registry
from broker.shards import ShardMap
from broker.webhooks import WebhookStore
from model_server.serving.batching import Batch
from model_server.serving.lease_keeper import LeaseKeeper
from model_server.serving.worker import Worker
from tests.conformance.test_dead_letters import box
from tests.support import fakes
from tests.support.fakes import KEY_TTL_S, LIMITS, MODEL, RESULT_TTL_S, FakeEngine, in_shard, job
from tests.support.redis_server import calls, client_of
from tests.support.waiting import eventually

SHARDS = 3


class Web:
    """The web tier's half, which has read the model's card."""

    def __init__(self, client: redis.Redis, keys: Keys, limits: Limits = LIMITS) -> None:
        web, self.shards = client_of(client, "web"), ShardMap()
        self.now = 0.0
        self.registry = Registry(web, keys, RedisClock(), shards=self.shards)
        self.registry.models(fresh=True)
        self.producer = Producer(web, keys, limits, shards=self.shards, monotonic=lambda: self.now)
        self.webhooks = WebhookStore(
            web, keys, RedisClock(), key_ttl_s=KEY_TTL_S, result_ttl_s=RESULT_TTL_S, shards=self.shards
        )

    def fresh_id(self) -> str:
        return self.producer.ids.make(MODEL, is_polled=True)

    def enqueue(
        self, count: int, *, shard: int | None = -1, lane: str = "", polled: bool = False
    ) -> list[Job]:
        """So many jobs in this shard, or in any."""
        made = []
        for _ in range(count):
            job_id = self.fresh_id() if shard == -1 else in_shard(job().id, shard)
            made.append(structs.replace(job(), id=job_id, lane=lane, polled=polled))
            self.producer.enqueue(MODEL, made[-1])
        return made


@pytest.fixture
def parts(keys: Keys) -> list[ModelKeys]:
    own = keys.of(MODEL)
    return [own, *map(own.of_shard, range(SHARDS))]


def _sharded(client: redis.Redis, keys: Keys, folder: Path, *, shards: int = SHARDS) -> Worker:
    made = fakes.worker(client, keys, FakeEngine(), folder, shards=shards)
    made.pipeline.engine = FakeEngine()
    _join(made)
    return made


def _join(worker: Worker) -> None:
    """Until it is registered in all shards."""
    worker.lease.announce(fakes.READY)
    parts = worker.pipeline.parts
    parts.grow()
    eventually(lambda: all(part.is_open for part in parts.parts))


@pytest.fixture
def worker(client: redis.Redis, keys: Keys, tmp_path: Path) -> Iterator[Worker]:
    made = _sharded(client, keys, tmp_path)
    yield made
    if not made.registration.has_left:
        made.leave()


@pytest.fixture
def web(client: redis.Redis, keys: Keys, worker: Worker) -> Web:
    assert worker.lease.shards_served == SHARDS
    return Web(client, keys)


def _claimed(worker: Worker) -> list[str]:
    most = worker.pipeline.limits.batch_size
    return [job.id for each in worker.pipeline.parts.claim(most, shared=most) for job in each.jobs]


def _run_all(worker: Worker) -> int:
    """Steps until nothing is left; how many jobs there were."""
    done = 0
    while jobs := fakes.step(worker):
        done += jobs
    return done


def _left(client: redis.Redis, parts: list[ModelKeys]) -> int:
    return sum(client.llen(name) for part in parts for name in client.keys(part.claims("*")))


def test_a_worker_is_registered_in_each_shard_under_an_id_of_its_own(
    client: redis.Redis, worker: Worker, parts: list[ModelKeys]
) -> None:
    ids = [client.zrange(part.workers, 0, -1) for part in parts]
    assert [len(each) for each in ids] == [1] * (1 + SHARDS)
    assert len({each[0] for each in ids}) == 1 + SHARDS
    assert [client.exists(part.card) for part in parts] == [1, 0, 0, 0]
    assert b'"state":"ready"' in client.hvals(parts[0].states)[0]
    assert b'"card":null' in client.hvals(parts[1].states)[0]  # the card is the model's
    worker.leave()
    assert [client.zcount(part.workers, 0, "+inf") for part in parts] == [0] * (1 + SHARDS)


def test_the_lease_of_each_shard_is_kept_until_the_worker_leaves(
    client: redis.Redis, keys: Keys, tmp_path: Path, parts: list[ModelKeys]
) -> None:
    made = fakes.worker(client, keys, FakeEngine(), tmp_path, shards=SHARDS)
    its = made.pipeline.parts
    its.keeper_of = lambda registration: LeaseKeeper(
        registration, lease_s=0.3, model_call_max_s=60, on_hung=lambda: None
    )
    _join(made)

    def ends() -> list[float]:
        return [float(client.zrange(part.workers, 0, -1, withscores=True)[0][1]) for part in parts[1:]]

    before = ends()
    eventually(lambda: all(now > then for now, then in zip(ends(), before, strict=True)))
    keepers = [its.parts[1 + shard].keeper for shard in range(SHARDS)]
    made.leave()
    assert [keeper is not None and keeper.is_alive() for keeper in keepers] == [False] * SHARDS


def test_every_job_is_run_once_whichever_shard_it_is_in(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    jobs = web.enqueue(30)
    assert sum(client.llen(part.queue) for part in parts[1:]) == 30
    assert _run_all(worker) == 30
    for each in jobs:
        found = web.producer.poll(MODEL, each.id)
        assert isinstance(found, Result)
        assert found.id == each.id
    assert _left(client, parts) == 0


def test_a_batch_is_filled_from_several_shards_and_in_their_order(worker: Worker, web: Web) -> None:
    ids = {shard: [each.id for each in web.enqueue(1, shard=shard)] for shard in range(SHARDS)}
    taken = _claimed(worker)
    assert sorted(taken) == sorted(each for of_shard in ids.values() for each in of_shard)
    own = [each.id for each in web.enqueue(3, shard=1)]
    assert _claimed(worker) == own


def test_jobs_of_before_there_were_shards_are_claimed_too(worker: Worker, web: Web) -> None:
    own = web.enqueue(2, shard=None)
    web.enqueue(2, shard=0)
    assert _run_all(worker) == 4
    assert all(isinstance(web.producer.poll(MODEL, each.id), Result) for each in own)


def test_a_full_shard_is_not_always_the_first(worker: Worker, web: Web) -> None:
    web.enqueue(40, shard=0)
    (late,) = web.enqueue(1, shard=2)
    assert late.id in [each for _ in range(1 + SHARDS) for each in _claimed(worker)]


def test_an_empty_shard_is_not_asked_unless_its_bell_rang(
    client: redis.Redis, worker: Worker, web: Web
) -> None:
    assert _claimed(worker) == []
    web.enqueue(1, shard=1)
    worker.pipeline.parts.wait(5)
    client.config_resetstat()
    worker.pipeline.parts._asked_all_at = time.monotonic()  # all are asked once a second
    assert len(_claimed(worker)) == 1
    assert calls(client, "evalsha") == 1


def test_a_lost_bell_costs_a_second_at_most(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    assert _claimed(worker) == []
    jobs = [each.id for shard in range(SHARDS) for each in web.enqueue(1, shard=shard)]
    for part in parts:
        client.delete(part.bell)
    worker.pipeline.parts._asked_all_at -= 1.0
    assert sorted(_claimed(worker)) == sorted(jobs)


def test_an_idle_worker_wakes_for_any_shard(worker: Worker, web: Web) -> None:
    _claimed(worker)
    for shard in range(SHARDS):
        web.enqueue(1, shard=shard)
        began = time.monotonic()
        worker.pipeline.parts.wait(20)
        assert time.monotonic() - began < 15
        assert len(_claimed(worker)) == 1


def test_a_recovered_job_runs_with_nothing_of_another_shard(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    (marked,) = web.enqueue(1, shard=2)
    client.hset(parts[3].attempts, marked.id, "1")
    for shard in (0, 1):  # the batch has room for it
        web.enqueue(1, shard=shard)
    batches = []
    for _ in range(8):
        if taken := worker.pipeline.claim():
            batches.append([entry.id for entry in taken.entries])
            outcomes = [CompletedJob(each) for each in batches[-1]]
            for share in taken.shares:
                own, outcomes = outcomes[: share.jobs], outcomes[share.jobs :]
                worker.pipeline.complete(share, own)
    assert [marked.id] in batches
    assert sum(map(len, batches)) == 3


def test_one_that_waits_to_run_alone_is_not_kept_waiting_by_full_shards(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    (marked,) = web.enqueue(1, shard=2)
    client.hset(parts[3].attempts, marked.id, "1")
    web.enqueue(60, shard=0)
    for _ in range(10):
        fakes.step(worker)
    assert isinstance(web.producer.poll(MODEL, marked.id), Result)


def test_a_part_that_is_being_put_right_is_not_claimed_from_for_a_job_that_runs_alone(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    (marked,) = web.enqueue(1, shard=2)
    client.hset(parts[3].attempts, marked.id, "1")
    (other,) = web.enqueue(1, shard=0)
    lone = worker.pipeline.parts.parts[3]
    worker.pipeline.parts._lone, lone.is_uncertain = lone, True
    assert _claimed(worker) == [other.id]


def test_a_batch_that_was_taken_away_before_it_ran_is_not_held_for_ever(
    client: redis.Redis, worker: Worker, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [each for shard in range(2) for each in web.enqueue(1, shard=shard)]
    pipeline, claim = worker.pipeline, worker.pipeline.claim

    def claim_and_pause() -> Batch | None:
        """As if the process had stood still until a peer reaped it."""
        batch = claim()
        for part in pipeline.parts.parts:
            lost, (seconds, _) = part.lease.worker, client.time()
            client.zadd(part.registration.lease._keys.workers, {lost: -seconds})
            part.registration.ensure(lost=lost)
        return batch

    with monkeypatch.context() as pause:
        pause.setattr(pipeline, "claim", claim_and_pause)
        fakes.step(worker)
    recovered = [part.registration.lease.recover_lost() for part in pipeline.parts.parts]
    assert sum(sum(each.values()) for each in recovered) == 2  # each runs alone now

    def are_answered() -> bool:
        # A part that is put right in a thread of its own meanwhile gives nothing.
        is_idle = fakes.step(worker) + fakes.step(worker) == 0
        return is_idle and all(isinstance(web.producer.poll(MODEL, each.id), Result) for each in jobs)

    eventually(are_answered)


def test_what_a_part_has_given_back_holds_up_no_job_that_runs_alone(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    jobs = web.enqueue(2, shard=0)
    assert len(_claimed(worker)) == 2
    its = worker.pipeline.parts
    its.parts[1].is_uncertain = True  # as after a claim whose reply was lost
    its.mend()
    eventually(lambda: its.parts[1].is_open)
    jobs += web.enqueue(1, shard=2)
    client.hset(parts[3].attempts, jobs[-1].id, "1")
    for _ in range(10):
        fakes.step(worker)
    assert all(isinstance(web.producer.poll(MODEL, each.id), Result) for each in jobs)


def test_what_is_in_hand_is_not_given_back(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    web.enqueue(2, shard=0)
    its = worker.pipeline.parts
    batch = worker.pipeline.claim()
    assert batch is not None
    part = its.parts[1]
    part.is_uncertain = True
    its.mend(but=batch.shares)
    part.complete(lambda: None)  # after whatever its thread was given before
    part.settle(whole=True)
    assert (part.is_open, _left(client, parts)) == (False, 2)
    its.mend()
    eventually(lambda: part.is_open)
    assert _left(client, parts) == 0


def test_claims_of_a_lost_worker_go_back_in_every_shard(
    client: redis.Redis, keys: Keys, worker: Worker, web: Web, parts: list[ModelKeys], tmp_path: Path
) -> None:
    peer = _sharded(client, keys, tmp_path)
    for shard in range(SHARDS):
        web.enqueue(1, shard=shard)
    assert len(_claimed(worker)) == SHARDS
    seconds, _ = client.time()
    for part in worker.pipeline.parts.parts:
        client.zadd(part.registration.lease._keys.workers, {part.lease.worker: seconds - 1})
    recovered = [part.registration.lease.recover_lost() for part in peer.pipeline.parts.parts]
    assert sum(sum(each.values()) for each in recovered) == SHARDS
    assert _left(client, parts) == 0
    assert _run_all(peer) == SHARDS
    peer.leave()


def test_a_lease_that_is_lost_in_one_shard_is_lost_there_alone(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    lost = worker.pipeline.parts.parts[2]
    client.zadd(parts[2].workers, {lost.lease.worker: -1.0})
    before = [part.lease.worker for part in worker.pipeline.parts.parts]
    jobs = [each for shard in range(SHARDS) for each in web.enqueue(1, shard=shard)]
    done = 0
    deadline = time.monotonic() + 20
    while done < SHARDS and time.monotonic() < deadline:
        done += fakes.step(worker)
    assert all(isinstance(web.producer.poll(MODEL, each.id), Result) for each in jobs)
    after = [part.lease.worker for part in worker.pipeline.parts.parts]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, True, False, True]


def test_a_key_of_a_wrong_type_stops_its_shard_alone(
    client: redis.Redis, worker: Worker, web: Web, parts: list[ModelKeys]
) -> None:
    client.set(parts[1].queue, "no list")
    jobs = [*web.enqueue(3, shard=1), *web.enqueue(3, shard=2)]
    assert _run_all(worker) == 6
    client.delete(parts[1].queue)
    (late,) = web.enqueue(1, shard=0)
    deadline = time.monotonic() + 20
    while not isinstance(web.producer.poll(MODEL, late.id), Result) and time.monotonic() < deadline:
        fakes.step(worker)
    assert all(isinstance(web.producer.poll(MODEL, each.id), Result) for each in [*jobs, late])


def test_the_largest_number_of_shards_is_remembered_and_served(
    client: redis.Redis, keys: Keys, worker: Worker, web: Web, parts: list[ModelKeys], tmp_path: Path
) -> None:
    jobs = web.enqueue(6)
    worker.leave()
    assert client.get(parts[0].shards) == b"3"
    assert SHARDS_TTL_S - 60 < client.ttl(parts[0].shards) <= SHARDS_TTL_S
    successor = _sharded(client, keys, tmp_path, shards=1)
    fresh = Web(client, keys)
    assert (fresh.shards.count(MODEL), len(fresh.shards.parts(keys, MODEL))) == (1, 1 + SHARDS)
    assert shard_of(fresh.fresh_id()) is None
    assert _run_all(successor) == 6
    assert all(isinstance(fresh.producer.poll(MODEL, each.id), Result) for each in jobs)
    successor.leave()


def test_a_worker_joins_shards_that_a_later_setting_adds(
    client: redis.Redis, keys: Keys, worker: Worker, web: Web, tmp_path: Path
) -> None:
    later = _sharded(client, keys, tmp_path, shards=SHARDS + 2)
    _join(worker)
    (added,) = web.enqueue(1, shard=SHARDS + 1)
    assert _claimed(worker) == [added.id]
    later.leave()


def test_admission_and_depths_count_all_shards(client: redis.Redis, keys: Keys, worker: Worker) -> None:
    web = Web(client, keys, Limits(queue_jobs=10, queue_bytes=10**9, result_ttl_s=60, key_ttl_s=KEY_TTL_S))
    for shard in (None, 0, 1, 2):
        web.enqueue(2, shard=shard)
    web.enqueue(1, shard=2, polled=True)
    web.now += 2 * LENGTH_VALID_S
    web.producer.admit(MODEL, size=1000, timeout_s=60, pace=Pace())
    web.enqueue(1, shard=0)
    web.now += 2 * LENGTH_VALID_S
    with pytest.raises(Overloaded, match="10 pictures wait"):
        web.producer.admit(MODEL, size=1000, timeout_s=60, pace=Pace())
    depth = web.producer.depths.of([MODEL])[MODEL]
    assert (depth.waiting, depth.polled) == (9, 1)
    assert web.registry.models(fresh=True)[MODEL].queue_length == 10
    assert _run_all(worker) == 10


def test_what_was_just_pushed_to_one_shard_tells_of_all(client: redis.Redis, web: Web) -> None:
    web.enqueue(2, shard=1)
    client.config_resetstat()
    web.producer.admit(MODEL, size=1000, timeout_s=60, pace=Pace())
    assert calls(client, "llen") == 0
    with pytest.raises(Overloaded, match="2 pictures wait"):  # 3 x 2 are expected, at 1 a second: it is asked
        web.producer.admit(MODEL, size=1000, timeout_s=0.5, pace=Pace(rate=1.0))


def test_that_a_model_is_asked_is_noted_under_its_own_keys(
    client: redis.Redis, parts: list[ModelKeys], web: Web
) -> None:
    times = itertools.count()
    web.producer._monotonic = lambda: 10.0 * next(times)  # each time is a while after the last
    client.delete(parts[0].asked)
    web.enqueue(1, shard=1)
    assert [client.exists(part.asked) for part in parts] == [1, 0, 0, 0]


@pytest.mark.slow
def test_an_owner_s_share_of_each_shard_is_his_share_of_all(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    web = Web(client, keys, replace(LIMITS, queue_jobs=1000))
    lanes = {"ann@100": 60, "bob@300": 180}
    owners = {each.id: lane for lane, count in lanes.items() for each in web.enqueue(count, lane=lane)}
    taken: list[str] = []
    while len(taken) < 120:
        taken += _claimed(worker)
    counts = Counter(owners[each] for each in taken)
    assert 20 <= counts["ann@100"] <= 40, counts
    # At 100 a second hers alone take 0.3 s, and with what bob's lane has meanwhile 1.2.
    web.producer.admit(MODEL, size=1000, timeout_s=4, pace=Pace(rate=100.0), lane="ann@100")
    web.now += 1
    with pytest.raises(Overloaded):
        web.producer.admit(MODEL, size=1000, timeout_s=1.5, pace=Pace(rate=100.0), lane="ann@100")


def test_where_one_shard_has_several_owners_a_claim_takes_fewer_of_all(web: Web, worker: Worker) -> None:
    parts = worker.pipeline.parts
    for shard in range(SHARDS):
        web.enqueue(6, shard=shard, lane="ann@100")
    assert sum(len(each.jobs) for each in parts.claim(4, shared=2)) == 4
    for shard in range(SHARDS):
        web.enqueue(6, shard=shard, lane="bob@100")
    for _ in range(2 * SHARDS):
        assert sum(len(each.jobs) for each in parts.claim(4, shared=2)) == 2
        assert parts.owners == 2


def test_a_name_finds_its_job_in_whichever_shard(
    client: redis.Redis, keys: Keys, web: Web, worker: Worker
) -> None:
    name = RequestName("k:0", "digest")
    first, second = web.fresh_id(), web.fresh_id()
    asked = structs.replace(job(), id=first)
    assert web.producer.enqueue(MODEL, asked, name) == first
    # Another process, which has not heard of shards yet.
    other = fakes.producer(client, keys)
    assert other.enqueue(MODEL, job(), name) == first
    assert web.producer.enqueue(MODEL, structs.replace(job(), id=second), name) == first
    assert web.producer.named(MODEL, name) == first
    assert web.producer.poll(MODEL, second) is None
    assert web.producer.poll(MODEL, first) == PendingJob(deadline_passed=False)
    with pytest.raises(IdempotencyKeyReused):
        web.producer.enqueue(MODEL, structs.replace(job(), id=second), RequestName("k:0", "another"))
    assert _run_all(worker) == 1
    web.producer.cancel(MODEL, first)
    assert web.producer.enqueue(MODEL, structs.replace(job(), id=second), name) == second


def test_a_webhook_is_due_in_the_shard_of_its_job(web: Web, worker: Worker) -> None:
    asked = structs.replace(job(), id=in_shard(job().id, 1), polled=True)
    webhook = Webhook("http://hook.test", asked.accepted_at, asked.deadline)
    web.producer.enqueue(MODEL, asked, None, webhook)
    assert web.producer.depths.of([MODEL])[MODEL].webhooks == 1
    assert _run_all(worker) == 1
    web.webhooks.due(10)  # learns of the models
    (due,) = web.webhooks.due(10)
    taken = web.webhooks.take(due, lease_s=30)
    assert taken is not None
    assert taken.job_id == asked.id
    assert taken.result
    assert web.webhooks.end(MODEL, asked.id)
    assert web.webhooks.due(10) == []


def test_dead_letters_of_all_shards_are_listed_and_queued_again(
    client: redis.Redis, keys: Keys, web: Web, worker: Worker
) -> None:
    jobs = [web.enqueue(1, shard=shard)[0] for shard in (0, 2)]
    taken = worker.pipeline.parts.claim(4, shared=4)
    for each in taken:
        outcomes = [CompletedJob(claimed.id, dead_reason="bad") for claimed in each.jobs]
        each.part.consumer.complete(each.worker, outcomes)
    letters = box(client, keys)
    assert sorted(letter.id for letter in letters.entries()) == sorted(each.id for each in jobs)
    assert web.producer.depths.of([MODEL])[MODEL].dead == 2
    letters.requeue(jobs[1].id, timeout_s=60, pace=Pace())
    letters.drop(jobs[0].id)
    assert letters.entries() == []


def test_another_worker_s_claims_can_t_be_completed(web: Web, worker: Worker) -> None:
    web.enqueue(1, shard=1)
    (taken,) = worker.pipeline.parts.claim(4, shared=4)
    with pytest.raises(LeaseLost):
        taken.part.consumer.complete(worker.lease.worker, [CompletedJob(taken.jobs[0].id)])
