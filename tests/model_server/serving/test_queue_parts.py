"""The parts of a queue: what a claim tells of it, how long a completion is waited for, and one that fails."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.errors import LeaseLost
from broker.keys import Keys
from model_server.serving.queue_parts import QueuePart
from model_server.serving.worker import Worker
from tests.support import fakes
from tests.support.fakes import FakeEngine


@pytest.fixture
def part(client: redis.Redis, keys: Keys, tmp_path: Path) -> Iterator[QueuePart]:
    made = fakes.worker(client, keys, FakeEngine(), tmp_path).pipeline.parts.own
    yield made
    made.close()


class Completion:
    """One that ends when it is told to."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.is_over = False

    def __call__(self) -> None:
        assert self.goes_on.wait(10)
        self.is_over = True


@pytest.mark.parametrize("whole", [True, False])
def test_the_end_of_each_completion_is_waited_for(part: QueuePart, whole: bool) -> None:
    for _ in range(2):  # the news of the first are none of the second
        completion = Completion()
        part.complete(completion)
        threading.Timer(0.05, completion.goes_on.set).start()
        part.settle(whole=whole)
        assert completion.is_over


def test_a_completion_that_is_stuck_is_waited_for_only_where_it_has_to_be(part: QueuePart) -> None:
    completion = Completion()
    part.complete(completion)
    threading.Timer(0.05, part.stuck).start()
    part.settle(whole=False)
    assert (completion.is_over, part.is_open) == (False, False)
    completion.goes_on.set()


@pytest.mark.parametrize("whole", [True, False])
def test_a_completion_that_fails_is_raised_once(part: QueuePart, whole: bool) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    part.complete(fail)
    with pytest.raises(ZeroDivisionError):
        part.settle(whole=whole)
    part.settle(whole=whole)


def test_a_claim_that_failed_tells_nothing_of_the_queue(
    client: redis.Redis, keys: Keys, worker: Worker
) -> None:
    parts = worker.pipeline.parts
    fakes.enqueue(client, keys, fakes.job())
    parts.claim(4, shared=4)
    told = [parts.is_emptied]
    fakes.lapse(client, keys, worker.lease.worker)
    with pytest.raises(LeaseLost):
        parts.claim(4, shared=4)
    assert [*told, parts.is_emptied] == [True, False]
    worker.registration.ensure(lost=worker.lease.worker)
