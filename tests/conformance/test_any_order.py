"""Whatever workers do, and in whichever order: no job of any lane is lost, none is done twice."""

from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from broker.consumer import CompletedJob, Consumer
from broker.keys import Keys, ModelKeys
from broker.lease import Lease
from broker.messages import Result
from tests.conformance.test_polled import _listed
from tests.support.fakes import MODEL, READY, consumer, enqueue, job, lapse, lease

LANES = ("", "ann@100", "ann@25", "bob@300")

_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enqueue"), st.sampled_from(LANES), st.booleans()),
        st.tuples(st.sampled_from(["claim", "complete"]), st.integers(0, 1), st.integers(1, 4)),
        st.tuples(st.sampled_from(["give_back", "lapse"]), st.integers(0, 1), st.just(0)),
    ),
    min_size=10,
    max_size=40,
)


@dataclass
class Play:
    """Two workers on one queue, and what must have become of each job."""

    client: redis.Redis
    keys: Keys
    accepted: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    held: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    def __post_init__(self) -> None:
        """Register both."""
        self.leases: list[Lease] = [lease(self.client, self.keys) for _ in range(2)]
        self.takers: list[Consumer] = [consumer(self.client, self.keys) for _ in range(2)]
        for each in self.leases:
            each.register(READY)

    def enqueue(self, lane: str, polled: bool) -> None:
        (accepted,) = enqueue(self.client, self.keys, structs.replace(job(), lane=lane, polled=polled))
        self.accepted.append(accepted.id)

    def claim(self, worker: int, n: int) -> None:
        self.held[worker].extend(each.id for each in self.takers[worker].claim(self.leases[worker].worker, n))

    def complete(self, worker: int, n: int) -> None:
        ids = self.held[worker][:n]
        if ids:
            outcomes = [CompletedJob(each, Result(each, MODEL, "v1")) for each in ids]
            assert self.takers[worker].complete(self.leases[worker].worker, outcomes)
            self.done += ids
            del self.held[worker][:n]

    def give_back(self, worker: int, _: int) -> None:
        assert self.leases[worker].give_back() == len(self.held[worker])
        self.held[worker].clear()

    def lapse(self, worker: int, _: int) -> None:
        lapse(self.client, self.keys, self.leases[worker].worker)
        recovered = self.leases[1 - worker].recover_lost()
        assert sum(recovered.values()) == len(self.held[worker])
        self.held[worker].clear()
        self.leases[worker].register(READY)

    def everywhere(self) -> list[str]:
        """Every job that is in some list, as often as it is."""
        keys: ModelKeys = self.keys.of(MODEL)
        lists = [keys.lane(lane, polled=polled) for lane in LANES for polled in (False, True)]
        lists += [keys.claims(each.worker) for each in self.leases]
        return [each for name in lists for each in _listed(self.client, name)]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_any_order_of_steps_loses_and_repeats_no_job(
    client: redis.Redis, keys: Keys, steps: list[tuple[str, object, object]]
) -> None:
    client.flushdb()
    play = Play(client, keys)
    for name, *arguments in steps:
        getattr(play, name)(*arguments)
        assert sorted(play.everywhere() + play.done) == sorted(play.accepted)
    for worker in (0, 1):
        play.complete(worker, len(play.held[worker]))
    for _ in range(2 * len(play.accepted) + 1):  # those that were recovered come alone
        play.claim(0, 4)
        play.complete(0, 4)
    assert sorted(play.done) == sorted(play.accepted)
    assert [name for name in client.keys() if "turns" in str(name) or "attempts" in str(name)] == []
