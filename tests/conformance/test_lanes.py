"""Lanes on a real Redis: each owner has lists of its own, and its turn by its weight."""

import time
from collections import Counter

import pytest
import redis
from msgspec import structs

from broker.admission import LENGTH_VALID_S
from broker.clock import RedisClock
from broker.connection import connect
from broker.consumer import Consumer
from broker.errors import Overloaded
from broker.keys import Keys
from broker.messages import Job, Pace
from broker.producer import Limits, Producer
from broker.registry import Registry
from tests.conformance.test_claim import _register_as, _taker
from tests.conformance.test_dead_letters import box, bury
from tests.conformance.test_polled import _listed
from tests.support.fakes import (
    KEY_TTL_S,
    LIMITS,
    MODEL,
    READY,
    consumer,
    enqueue,
    job,
    lapse,
    lease,
    producer,
)
from tests.support.redis_server import RedisServer, calls, client_of

ANN, BOB, CID = "ann@100", "bob@300", "cid@100"


def _jobs(lane: str, count: int, *, polled: bool = False) -> list[Job]:
    return [structs.replace(job(), lane=lane, polled=polled) for _ in range(count)]


def _fill(client: redis.Redis, keys: Keys, **counts: int) -> dict[str, list[str]]:
    """So many jobs in ann's, bob's, cid's lane, or nobody's; their ids."""
    lanes = {"ann": ANN, "bob": BOB, "cid": CID, "nobody": ""}
    return {
        name: [each.id for each in enqueue(client, keys, *_jobs(lanes[name], count))]
        for name, count in counts.items()
    }


def _worker(client: redis.Redis, keys: Keys) -> tuple[Consumer, str]:
    return consumer(client, keys), lease(client, keys).register(READY)


def _claimed(taker: Consumer, worker: str, n: int, ids: dict[str, list[str]]) -> list[str]:
    """Whose jobs a claim takes, in order."""
    names = {each: name for name, lane in ids.items() for each in lane}
    return [names[each.id] for each in taker.claim(worker, n)]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 32])
def test_two_backlogged_lanes_share_by_their_weights_in_any_window(
    client: redis.Redis, keys: Keys, n: int
) -> None:
    ids = _fill(client, keys, ann=30, bob=90)
    taker, worker = _worker(client, keys)
    order = [name for _ in range(96 // n) for name in _claimed(taker, worker, n, ids)]
    for begin in range(len(order) - 8):
        assert 1 <= Counter(order[begin : begin + 8])["ann"] <= 3
    # Whose first job comes before another's next pays for it from there on: a turn at most.
    assert abs(order[:96].count("ann") - 24) <= 1


def test_those_of_nobody_need_no_turns_once_they_are_alone(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=1, nobody=9)
    taker, worker = _worker(client, keys)
    assert Counter(_claimed(taker, worker, 4, ids)) == {"ann": 1, "nobody": 3}
    assert not client.exists(keys.of(MODEL).turns)
    assert (_claimed(taker, worker, 4, ids), taker.owners) == (["nobody"] * 4, 0)


def test_each_lane_stays_in_order(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=5, bob=5, nobody=5)
    taker, worker = _worker(client, keys)
    claimed = [each.id for each in taker.claim(worker, 15)]
    assert {name: [each for each in claimed if each in lane] for name, lane in ids.items()} == ids


@pytest.mark.parametrize("n", [2, 20])
def test_a_light_lane_is_next_whatever_the_others_have(client: redis.Redis, keys: Keys, n: int) -> None:
    ids = _fill(client, keys, ann=60, nobody=60)
    taker, worker = _worker(client, keys)
    for _ in range(3):
        assert len(_claimed(taker, worker, n, ids)) == n
        ids["cid"] = [each.id for each in enqueue(client, keys, *_jobs(CID, 1))]
        assert _claimed(taker, worker, 1, ids) == ["cid"]
        _claimed(taker, worker, 6, ids)  # its lane is forgotten


@pytest.mark.parametrize(
    ("lanes", "polled", "owners"),
    [
        ([""], [""], 0),
        ([ANN], [], 1),
        (["ann@25", "ann@100", "ann@400"], [ANN], 1),
        ([ANN, CID], [], 2),
        ([ANN, ""], [], 2),
        ([ANN], [CID], 2),
        ([""], [ANN], 2),
        (["ann@25", "ann@100", "ann@400", CID], [], 2),
    ],
    ids=str,
)
def test_where_several_owners_have_turns_a_claim_takes_fewer(
    client: redis.Redis, keys: Keys, lanes: list[str], polled: list[str], owners: int
) -> None:
    for lane in lanes:
        enqueue(client, keys, *_jobs(lane, 3))
    for lane in polled:
        enqueue(client, keys, *_jobs(lane, 3, polled=True))
    taker, worker = _worker(client, keys)
    assert len(taker.claim(worker, 3, shared=2)) == (2 if owners > 1 else 3)
    assert (taker.owners, taker.is_emptied) == (owners, False)


def test_an_owner_whose_jobs_have_gone_is_none(client: redis.Redis, keys: Keys) -> None:
    _fill(client, keys, ann=2, cid=1)
    taker, worker = _worker(client, keys)
    assert len(taker.claim(worker, 2, shared=2)) == 2  # one of each
    assert (len(taker.claim(worker, 1, shared=1)), taker.owners) == (1, 1)
    assert client.zcard(keys.of(MODEL).turns) == 2  # until its turn comes


def test_a_claim_takes_no_more_for_being_shared(client: redis.Redis, keys: Keys) -> None:
    _fill(client, keys, ann=4, cid=4)
    taker, worker = _worker(client, keys)
    assert len(taker.claim(worker, 2, shared=4)) == 2
    assert len(taker.claim(worker, 4)) == 4


def test_nobody_saves_turns_up_by_idling(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=60)
    taker, worker = _worker(client, keys)
    assert _claimed(taker, worker, 20, ids) == ["ann"] * 20
    ids |= _fill(client, keys, cid=20)
    assert Counter(_claimed(taker, worker, 20, ids)) == {"ann": 10, "cid": 10}


def test_new_lanes_have_their_turns_in_the_order_in_which_they_came(client: redis.Redis, keys: Keys) -> None:
    """Equals went by name: a stream of owners with a picture each kept zoe waiting until there was none."""
    taker, worker = _worker(client, keys)
    (waiting,) = enqueue(client, keys, *_jobs("zoe@100", 1))
    first = []
    for number in range(3):
        enqueue(client, keys, *_jobs(f"{number}@100", 2 if number == 0 else 1))
        first += [each.id for each in taker.claim(worker, 1)]
    assert waiting.id in first[:2]


def test_nobody_gains_by_coming_back_at_once(client: redis.Redis, keys: Keys) -> None:
    """An emptied lane that began anew at each job would have every other turn, whatever its weight."""
    ids = _fill(client, keys, bob=60)
    taker, worker = _worker(client, keys)
    low = Counter[str]()
    for _ in range(40):
        if not client.llen(keys.of(MODEL).lane("low@30", polled=False)):
            ids.setdefault("low", []).extend(each.id for each in enqueue(client, keys, *_jobs("low@30", 1)))
        low.update(_claimed(taker, worker, 1, ids))
    assert 3 <= low["low"] <= 5  # of 40, at 30 to 300


def test_priority_is_a_weight(client: redis.Redis, keys: Keys) -> None:
    """A request's priority makes another lane of the same owner."""
    high, low = (enqueue(client, keys, *_jobs(lane, 20)) for lane in ("ann@400", "ann@25"))
    ids = {"high": [each.id for each in high], "low": [each.id for each in low]}
    taker, worker = _worker(client, keys)
    assert Counter(_claimed(taker, worker, 17, ids)) == {"high": 16, "low": 1}


def test_of_four_claimed_one_is_polled_and_each_kind_has_turns_of_its_own(
    client: redis.Redis, keys: Keys
) -> None:
    ids = _fill(client, keys, ann=12, cid=12)
    for name, lane in (("polled ann", ANN), ("polled cid", CID)):
        ids[name] = [each.id for each in enqueue(client, keys, *_jobs(lane, 4, polled=True))]
    taker, worker = _worker(client, keys)
    counts = Counter(_claimed(taker, worker, 16, ids))
    assert counts == {"ann": 6, "cid": 6, "polled ann": 2, "polled cid": 2}


def test_the_last_of_the_lanes_silences_the_bell_and_leaves_no_key(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=2, bob=2, nobody=2)
    taker, worker = _worker(client, keys)
    _claimed(taker, worker, 5, ids)
    assert client.llen(keys.of(MODEL).bell) == 6
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())
    _claimed(taker, worker, 1, ids)
    assert client.llen(keys.of(MODEL).bell) == 0
    assert taker.claim(worker, 1) == []
    assert [name for name in client.keys() if "queue" in str(name) or "turns" in str(name)] == []


@pytest.mark.parametrize("end", ["killed", "give_back", "leave"])
def test_claims_go_back_to_the_heads_of_their_lanes_in_order(
    client: redis.Redis, keys: Keys, end: str
) -> None:
    ids = _fill(client, keys, ann=4, bob=4, nobody=4)
    ids["polled"] = [each.id for each in enqueue(client, keys, *_jobs(ANN, 4, polled=True))]
    own = lease(client, keys)
    worker = own.register(READY)
    assert len(consumer(client, keys).claim(worker, 10)) == 10
    if end == "killed":
        lapse(client, keys, worker)
        lease(client, keys).recover_lost()
    else:
        getattr(own, end)()
    names = keys.of(MODEL)
    lists = {"ann": ANN, "bob": BOB, "nobody": ""}
    found = {name: _listed(client, names.lane(lane, polled=False)) for name, lane in lists.items()}
    assert found | {"polled": _listed(client, names.lane(ANN, polled=True))} == ids
    assert all(0 < client.ttl(name) <= KEY_TTL_S for name in client.keys())


def test_what_was_given_back_costs_no_second_turn(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=20)
    taker, own = consumer(client, keys), lease(client, keys)
    assert _claimed(taker, own.register(READY), 8, ids) == ["ann"] * 8
    ids |= _fill(client, keys, cid=20)
    _, other = _worker(client, keys)
    assert Counter(_claimed(taker, other, 2, ids)) == {"ann": 1, "cid": 1}
    own.give_back()
    assert _claimed(taker, other, 7, ids) == ["ann"] * 7


def test_a_recovered_job_of_a_lane_comes_alone(client: redis.Redis, keys: Keys) -> None:
    ids = _fill(client, keys, ann=2, cid=2)
    client.hset(keys.of(MODEL).attempts, ids["cid"][0], "1")
    taker, worker = _worker(client, keys)
    assert _claimed(taker, worker, 4, ids) == ["ann"]
    assert _claimed(taker, worker, 4, ids) == []
    _, other = _worker(client, keys)
    assert _claimed(taker, other, 4, ids) == ["cid"]
    assert Counter(_claimed(taker, worker, 4, ids)) == {"ann": 1, "cid": 1}


def test_a_lane_that_is_left_to_others_holds_up_no_lane(client: redis.Redis, keys: Keys) -> None:
    old, old_tag = _register_as(client, keys)
    new, new_tag = _register_as(client, keys, side=4)
    left = [structs.replace(each, input=old_tag) for each in _jobs(ANN, 2)]
    mine = [structs.replace(each, input=new_tag) for lane in (CID, "") for each in _jobs(lane, 2)]
    enqueue(client, keys, *left, *mine)
    of_new = _taker(client, keys, new_tag)
    assert {each.id for each in of_new.claim(new.worker, 8)} == {each.id for each in mine}
    assert of_new.claim(new.worker, 8) == []
    of_new.wait(5)  # does not: it was left to the other, for whom the bell rings
    claimed = _taker(client, keys, old_tag).claim(old.worker, 8)
    assert [each.id for each in claimed] == [each.id for each in left]


def test_a_full_redis_drains_lanes_too(own_redis: RedisServer, keys: Keys) -> None:
    with connect(own_redis.url, timeout_s=5) as client:
        ids = _fill(client, keys, ann=3, cid=3, nobody=3)
        taker, own = consumer(client, keys), lease(client, keys)
        own.register(READY)
        client.config_set("maxmemory", "1")
        for _ in range(2):
            assert Counter(_claimed(taker, own.worker, 6, ids)) == {"ann": 2, "cid": 2, "nobody": 2}
            assert own.give_back() == 6


def test_every_measure_of_the_queue_counts_the_lanes(client: redis.Redis, keys: Keys) -> None:
    early = structs.replace(job(now=time.time() - 100, deadline_in_s=900), lane=ANN)
    enqueue(client, keys, early, *_jobs(BOB, 2), *_jobs(ANN, 1, polled=True), job())
    lease(client, keys).register(READY)
    assert Registry(client_of(client, "web"), keys, RedisClock()).models()[MODEL].queue_length == 5
    assert consumer(client, keys).waiting() == 5
    assert min(consumer(client, keys).oldest()) == early.accepted_at
    depth = producer(client, keys).depths.of([MODEL])[MODEL]
    assert (depth.waiting, depth.polled, depth.lanes) == (4, 1, 2)
    assert 99 < depth.oldest_s < 110


def test_a_dead_letter_goes_back_into_its_lane(client: redis.Redis, keys: Keys) -> None:
    (buried,) = bury(client, keys, *_jobs(ANN, 1))
    fresh_id = box(client, keys).requeue(buried.id, timeout_s=60, pace=Pace())
    assert _listed(client, keys.of(MODEL).lane(ANN, polled=True)) == [fresh_id]
    assert producer(client, keys).look_up(MODEL, fresh_id, owner="ann") is not None


def _admitted(into: Producer, lane: str, *, polled: bool = False, **how: float) -> bool:
    try:
        into.admit(
            MODEL,
            size=1,
            timeout_s=how.get("timeout_s", 1e6),
            pace=Pace(how.get("rate", 0.0)),
            polled=polled,
            lane=lane,
        )
    except Overloaded:
        return False
    return True


def _unhurried(client: redis.Redis, keys: Keys, limits: Limits = LIMITS) -> Producer:
    """A producer that believes nothing for long."""
    times = iter(range(10**6))
    return Producer(client_of(client, "web"), keys, limits, monotonic=lambda: 100.0 * next(times))


def _filled(into: Producer, lane: str, *, polled: bool = False) -> int:
    """How many jobs a lane gets into the queue."""
    count = 0
    while _admitted(into, lane, polled=polled):
        into.enqueue(MODEL, _jobs(lane, 1, polled=polled)[0])
        count += 1
    return count


def test_an_owner_leaves_room_for_others(client: redis.Redis, keys: Keys) -> None:
    limits = Limits(queue_jobs=30, queue_bytes=10**6, result_ttl_s=60, key_ttl_s=KEY_TTL_S)
    into = _unhurried(client, keys, limits)
    assert _filled(into, ANN) == 20
    # Neither another priority nor the other kind makes another owner.
    assert not _admitted(into, "ann@400")
    assert not _admitted(into, ANN, polled=True)
    assert _filled(into, BOB) == 7
    assert [_admitted(into, lane) for lane in (CID, "", ANN)] == [True, True, False]
    enqueue(client, keys, *_jobs("", 3))
    # Of a full queue one of ann's, three of bob's and one of nobody's go before it.
    with pytest.raises(Overloaded, match="30 pictures wait") as refusal:
        into.admit(MODEL, size=1, timeout_s=1e6, pace=Pace(1), lane=CID)
    assert refusal.value.retry_after_s == 5


def test_a_queue_without_lanes_is_one_owner_s_to_the_last_place(client: redis.Redis, keys: Keys) -> None:
    limits = Limits(queue_jobs=9, queue_bytes=10**6, result_ttl_s=60, key_ttl_s=KEY_TTL_S)
    into = _unhurried(client, keys, limits)
    assert _filled(into, "") == 9
    assert not _admitted(into, ANN)


def test_the_wait_is_judged_by_the_fair_share(client: redis.Redis, keys: Keys) -> None:
    into = _unhurried(client, keys)
    _fill(client, keys, ann=20)
    # At 1 a second ann's next waits for 20 s, and half of the time is kept for surprises.
    assert [_admitted(into, ANN, rate=1, timeout_s=each) for each in (40, 39)] == [True, False]
    assert [_admitted(into, CID, rate=1, timeout_s=each) for each in (2, 1)] == [True, False]
    # A lane of a third of the weight lets three go first; nobody's is one of 100.
    assert [_admitted(into, "low@33", rate=1, timeout_s=each) for each in (8, 7)] == [True, False]
    assert [_admitted(into, "", rate=1, timeout_s=each) for each in (2, 1)] == [True, False]
    with pytest.raises(Overloaded) as refusal:
        into.admit(MODEL, size=1, timeout_s=20, pace=Pace(1), lane=ANN)
    assert refusal.value.retry_after_s == 10


def test_a_lane_is_measured_once_in_a_moment_while_there_is_much_room(
    client: redis.Redis, keys: Keys
) -> None:
    now = 100.0
    into = Producer(client_of(client, "web"), keys, LIMITS, monotonic=lambda: now)

    def asked() -> int:
        """How many scripts Redis has run for one more admission."""
        before = calls(client, "evalsha")
        assert _admitted(into, ANN)
        return calls(client, "evalsha") - before

    assert [asked(), asked()] == [1, 0]
    now += 1.1 * LENGTH_VALID_S
    assert asked() == 1
    # Another's push tells nothing of the lanes, so nobody's jobs are measured each time.
    into.enqueue(MODEL, job())
    before = calls(client, "llen")
    assert _admitted(into, "")
    assert calls(client, "llen") > before


@pytest.mark.parametrize(
    "lane", ["ann", "ann@0", "ann@100001", "Ann@1", "@100", "ann@1@2", "ann@01", "a:b@1"]
)
def test_what_is_no_lane_is_refused(client: redis.Redis, keys: Keys, lane: str) -> None:
    with pytest.raises(ValueError, match="a lane is OWNER@WEIGHT"):
        enqueue(client, keys, *_jobs(lane, 1))
    assert client.keys() == []
