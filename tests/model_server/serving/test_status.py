"""What a worker publishes of its pace."""

import pytest

from broker.messages import State, WorkerState
from model_server.serving.status import BatchAverages


def test_averages_begin_with_the_first_batch_and_follow_the_next_ones() -> None:
    state, averages = State(WorkerState.READY, "v"), BatchAverages()
    assert averages.of(state) == state
    averages.add(4, 0.5, waited_s=0.25)
    first = averages.of(state)
    assert (first.rate, first.latency_ms, first.waiting_ms, first.pictures) == (8.0, 500.0, 250.0, 4)
    averages.add(2, 1.0, waited_s=0.0)
    second = averages.of(first)
    assert second.rate == pytest.approx(8.0 + 0.2 * (2.0 - 8.0))
    assert (second.latency_ms, second.waiting_ms, second.pictures) == (600.0, 200.0, 6)
