"""Registry on a real Redis: what the web tier gets to know, and how old it may be."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import redis

from broker.clock import RedisClock
from broker.errors import BrokerUnavailable, MalformedMessage
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import Label, State, WorkerState
from broker.registry import SNAPSHOT_S, ModelView, Registry
from tests.support.fakes import CARD, KEY_TTL_S, MODEL, READY, enqueue, job, lapse, lease
from tests.support.waiting import eventually


def test_an_empty_redis_has_no_models(client: redis.Redis, keys: Keys) -> None:
    assert Registry(client, keys, RedisClock()).models() == {}


def test_shows_card_state_queue_and_rate(client: redis.Redis, keys: Keys) -> None:
    worker = lease(client, keys).register(State(WorkerState.READY, "v1", rate=20.0))
    lease(client, keys).register(State(WorkerState.READY, "v1", rate=22.0))
    enqueue(client, keys, job(), job())
    view = Registry(client, keys, RedisClock()).models()[MODEL]
    assert view.card == CARD
    assert view.state is WorkerState.READY
    assert view.pace.rate == 42.0
    assert view.queue_length == 2
    assert worker in view.states
    assert view.last_alive > client.time()[0]


def test_the_best_state_counts_and_a_failure_has_its_reason(client: redis.Redis, keys: Keys) -> None:
    lease(client, keys).register(State(WorkerState.FAILED, "v1", reason="no weights"))
    registry = Registry(client, keys, RedisClock())
    assert registry.models(fresh=True)[MODEL].state is WorkerState.FAILED
    assert registry.models(fresh=True)[MODEL].reason == "no weights"
    lease(client, keys).register(READY)
    assert registry.models(fresh=True)[MODEL].state is WorkerState.READY


def test_a_lapsed_worker_s_state_is_not_shown_but_remembered_as_alive_until_then(
    client: redis.Redis, keys: Keys
) -> None:
    worker = lease(client, keys).register(READY)
    lapse(client, keys, worker)
    view = Registry(client, keys, RedisClock()).models()[MODEL]
    assert view.state is None
    assert view.states == {}
    assert abs(view.last_alive - client.time()[0]) < 5


def test_a_reaped_worker_is_remembered_too(client: redis.Redis, keys: Keys) -> None:
    own = lease(client, keys)
    own.register(READY)
    own.leave()
    view = Registry(client, keys, RedisClock()).models()[MODEL]
    assert view.state is None
    assert abs(view.last_alive - client.time()[0]) < 5


def test_a_snapshot_is_kept_for_its_time_and_no_longer(client: redis.Redis, keys: Keys) -> None:
    now = [100.0]
    registry = Registry(client, keys, RedisClock(monotonic=lambda: now[0]))
    assert registry.models() == {}
    lease(client, keys).register(READY)
    now[0] += SNAPSHOT_S * 0.9
    assert registry.models() == {}
    now[0] += SNAPSHOT_S * 0.2
    assert list(registry.models()) == [MODEL]


def test_a_card_that_can_not_be_read_is_left_out(client: redis.Redis, keys: Keys) -> None:
    lease(client, keys).register(READY)
    client.sadd(keys.models, "other")
    client.set(keys.of("other").card, '{"model":"other"}')
    assert list(Registry(client, keys, RedisClock()).models()) == [MODEL]


def test_reading_keeps_the_clock_in_step(client: redis.Redis, keys: Keys) -> None:
    clock = RedisClock()
    clock.sync(5.0, sent=0, received=0)
    Registry(client, keys, clock).models()
    assert abs(clock.now() - client.time()[0]) < 5


def test_however_many_ask_of_a_redis_that_hangs_nobody_waits_longer_than_two_reads(
    keys: Keys, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(client, keys, RedisClock())
    reads: list[None] = []
    answer = threading.Event()

    def hang(_: Registry) -> dict[str, ModelView]:
        reads.append(None)
        answer.wait(20)
        raise BrokerUnavailable("it does not answer in time")

    monkeypatch.setattr(Registry, "_read", hang)
    failures: list[BrokerUnavailable] = []

    def ask() -> None:
        try:
            registry.models(fresh=True)
        except BrokerUnavailable as error:
            failures.append(error)

    asking = [threading.Thread(target=ask) for _ in range(20)]
    for thread in asking:
        thread.start()
    eventually(lambda: len(reads) == 1)
    answer.set()
    for thread in asking:
        thread.join(20)
    assert len(failures) == 20
    assert len(reads) <= 2
    # The failure stands for a while: nobody else waits for the same.
    with pytest.raises(BrokerUnavailable):
        registry.models()
    assert len(reads) <= 2


def test_after_a_pause_nobody_is_told_what_was_before_it(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(client, keys, RedisClock())

    def fail(_: Registry) -> dict[str, ModelView]:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(Registry, "_read", fail)
        with pytest.raises(BrokerUnavailable):
            registry.models()
    registry._began_at -= 10
    read, reading, may_read = Registry._read, threading.Event(), threading.Event()

    def slowly(self: Registry) -> object:
        reading.set()
        assert may_read.wait(20)
        return read(self)

    monkeypatch.setattr(Registry, "_read", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.models)
        assert reading.wait(20)
        second = pool.submit(registry.models)  # it must not be given the failure of long ago
        may_read.set()
        assert (first.result(20), second.result(20)) == ({}, {})


def test_a_failed_read_is_made_good_by_the_next(
    client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(client, keys, RedisClock())
    lease(client, keys).register(READY)

    def fail(_: Registry) -> None:
        raise BrokerUnavailable("away")

    with monkeypatch.context() as away:
        away.setattr(Registry, "_read", fail)
        with pytest.raises(BrokerUnavailable):
            registry.models()
    assert list(registry.models(fresh=True)) == [MODEL]
    assert list(registry.models()) == [MODEL]


def _versioned(client: redis.Redis, keys: Keys, version: str) -> Lease:
    card = replace(CARD, model_version=version)
    return Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())


def test_the_card_is_that_of_the_newest_ready_worker_while_it_lives(client: redis.Redis, keys: Keys) -> None:
    registry = Registry(client, keys, RedisClock())

    def told() -> str:
        return registry.models(fresh=True)[MODEL].card.model_version

    old, new, next_ = (_versioned(client, keys, version) for version in ("v1", "v2", "v3"))
    old.register(READY)
    new.register(State(WorkerState.LOADING, "v2"))
    assert told() == "v1"
    new.announce(State(WorkerState.READY, "v2"))
    assert told() == "v2"
    old.announce(READY)  # each renewal does; they must not take turns
    assert told() == "v2"
    old.register(READY)  # reaped by mistake: it is no newer for that
    assert told() == "v2"
    next_.register(State(WorkerState.FAILED, "v3", reason="broken"))
    assert told() == "v2"
    lapse(client, keys, new.worker)
    assert told() == "v1"


def test_when_nobody_lives_the_card_is_the_last_one_s(client: redis.Redis, keys: Keys) -> None:
    own = _versioned(client, keys, "v1")
    own.register(READY)
    own.leave()
    broken = _versioned(client, keys, "v2")
    broken.register(State(WorkerState.FAILED, "v2", reason="broken"))
    broken.leave()
    assert Registry(client, keys, RedisClock()).models()[MODEL].card.model_version == "v1"


def test_a_ready_worker_s_reason_is_shown_and_a_failure_s_before_it(client: redis.Redis, keys: Keys) -> None:
    registry = Registry(client, keys, RedisClock())
    _versioned(client, keys, "v1").register(State(WorkerState.READY, "v1", reason="a changed folder"))
    assert registry.models(fresh=True)[MODEL].reason == "a changed folder"
    _versioned(client, keys, "v2").register(State(WorkerState.FAILED, "v2", reason="broken"))
    view = registry.models(fresh=True)[MODEL]
    assert (view.reason, view.state) == ("broken", WorkerState.READY)


def test_the_labels_of_each_version_are_told_and_sent_once(client: redis.Redis, keys: Keys) -> None:
    registry = Registry(client, keys, RedisClock())

    def told(version: str) -> tuple[Label, ...]:
        return registry.labels(MODEL, version)

    def labelled(version: str, *labels: str) -> Lease:
        named = [Label(str(number), label) for number, label in enumerate(labels)]
        card = replace(CARD, model_version=version)
        return Lease(client, keys, card, labels=named, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())

    assert told("v1") == ()
    old = labelled("v1", "cat", "dog")
    old.register(READY)
    labelled("v2", "dog", "cat").register(READY)
    assert [label.label for label in told("v1")] == ["cat", "dog"]
    assert [label.label for label in told("v2")] == ["dog", "cat"]
    key = keys.of(MODEL).labels("v1")
    assert 0 < client.ttl(key) <= KEY_TTL_S
    client.set(key, b"[]")
    old.announce(READY)  # what is there is left as it is, and its time begins again
    assert (client.get(key), client.ttl(key) > 0) == (b"[]", True)
    client.delete(key)
    old.announce(READY)
    assert (client.get(key) or b"") != b"[]"
    assert client.exists(key)


def test_labels_that_cannot_be_read_are_an_error_of_this_model(client: redis.Redis, keys: Keys) -> None:
    client.set(keys.of(MODEL).labels(CARD.model_version), b"{")
    with pytest.raises(MalformedMessage):
        Registry(client, keys, RedisClock()).labels(MODEL, CARD.model_version)
