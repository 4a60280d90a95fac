"""What the samples of the last hour say, and the address that tells them."""

import math

import pytest
import redis

from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.history import Sampler, quantile


def sampled(sampler: Sampler) -> tuple[float | None, float | None, float | None]:
    """Pictures and errors a second, and p50."""
    sample = sampler.sample()
    assert sample is not None
    model = sample.models[MODEL]
    assert (model.queue, model.workers) == (0, 1)
    return model.pictures_per_s, model.errors_per_s, sample.p50_ms


def test_a_sample_says_what_came_since_the_one_before(running: Service) -> None:
    sampler: Sampler = running.app.extensions["history"]
    jobs = running.app.extensions["jobs"]
    eventually(lambda: MODEL in jobs.registry.models(fresh=True) and running.worker.ready.is_set())
    assert sampled(sampler) == (None, None, None)
    assert running.client.post("/predict", data=png(0), content_type="image/png").status_code == 200
    assert running.client.post("/predict", data=b"no picture", content_type="image/png").status_code == 400

    def said_so() -> bool:
        states = jobs.registry.models(fresh=True)[MODEL].states
        return any(state.pictures for state in states.values())

    eventually(said_so)  # workers tell now and then how many they ran
    pictures, errors, p50_ms = sampled(sampler)
    assert pictures == errors
    assert pictures
    assert p50_ms
    assert sampled(sampler) == (0.0, 0.0, None)
    told = running.client.get("/status/history").get_json()
    assert told["interval_s"] == 10
    assert [sample["models"][MODEL]["pictures_per_s"] for sample in told["samples"]] == [None, pictures, 0.0]
    assert all(sample["redis_bytes"] > 0 and sample["at"] <= told["time"] for sample in told["samples"])


def test_only_one_process_samples_and_the_next_begins_anew(
    running: Service, client: redis.Redis, keys: Keys
) -> None:
    sampler: Sampler = running.app.extensions["history"]
    jobs = running.app.extensions["jobs"]
    eventually(lambda: MODEL in jobs.registry.models(fresh=True) and running.worker.ready.is_set())
    assert sampler.sample() is not None
    client.set(keys.history_writer, "another")
    assert sampler.sample() is None
    client.delete(keys.history_writer)
    assert sampled(sampler) == (None, None, None)  # nobody knows what came meanwhile
    assert client.llen(keys.history) == 2


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({0.1: 0, math.inf: 0}, 0.5, None),
        ({0.1: 10, math.inf: 10}, 0.5, 50.0),
        ({0.1: 5, 0.2: 10, math.inf: 10}, 0.95, 190.0),
        ({0.1: 5, 0.2: 5, math.inf: 10}, 0.95, 200.0),  # slower than the last bound
    ],
)
def test_quantiles_are_those_of_prometheus(
    buckets: dict[float, float], share: float, expected: float | None
) -> None:
    found = quantile(buckets, share)
    assert found == expected if expected is None else found == pytest.approx(expected)
