"""The samples of the last hour in Redis: one writer, and a bound."""

import redis

from broker import history
from broker.history import SAMPLES, HistoryStore, ModelSample, Sample
from broker.keys import Keys

MODEL = ModelSample(queue=3, workers=2, pictures_per_s=1.5, errors_per_s=None, latency_ms=None)


def sample(at: float) -> Sample:
    return Sample(at=at, models={"digits": MODEL}, redis_bytes=7, p50_ms=1.0, p95_ms=None)


def test_one_writes_until_it_is_gone(client: redis.Redis, keys: Keys) -> None:
    store = HistoryStore(client, keys)
    assert store.take_turn("one")
    assert client.ttl(keys.history_writer) > 2 * history.SAMPLE_S  # one sample may come late
    assert not store.take_turn("other")
    client.expire(keys.history_writer, 5)
    assert store.take_turn("one")
    assert client.ttl(keys.history_writer) > 5  # its turn was renewed
    client.delete(keys.history_writer)
    assert store.take_turn("other")
    assert not store.take_turn("one")


def test_the_newest_hour_is_kept_and_what_nobody_can_read_hides_nothing(
    client: redis.Redis, keys: Keys
) -> None:
    store = HistoryStore(client, keys)
    assert store.samples() == []
    client.rpush(keys.history, *([b"{}"] * SAMPLES))
    store.add(sample(1.0))
    store.add(sample(2.0))
    assert store.samples() == [sample(1.0), sample(2.0)]
    assert client.llen(keys.history) == SAMPLES
    assert 0 < client.ttl(keys.history) <= history.SAMPLE_S * SAMPLES
