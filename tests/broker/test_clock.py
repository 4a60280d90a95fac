"""RedisClock: an offset, learnt from the middle of a round trip."""

import pytest

from broker.clock import RedisClock


def test_follows_redis_from_the_middle_of_the_round_trip() -> None:
    now = [50.0]
    clock = RedisClock(monotonic=lambda: now[0])
    clock.sync(1_000_000.0, sent=50.0, received=52.0)
    now[0] = 61.0
    assert clock.now() == 1_000_010.0


def test_a_slow_round_trip_that_agrees_changes_nothing() -> None:
    clock = RedisClock(monotonic=lambda: 50.0)
    clock.sync(1000.0, sent=49.999, received=50.001)
    clock.sync(1000.030, sent=49.96, received=50.06)
    assert clock.now() == 1000.0


def test_a_quicker_round_trip_is_taken() -> None:
    clock = RedisClock(monotonic=lambda: 50.0)
    clock.sync(1000.0, sent=49.9, received=50.1)
    clock.sync(1000.05, sent=49.999, received=50.001)
    assert abs(clock.now() - 1000.05) < 1e-9


def test_a_round_trip_that_contradicts_is_believed_however_slow() -> None:
    """Redis' clock was set, or drifted away."""
    clock = RedisClock(monotonic=lambda: 50.0)
    clock.sync(1000.0, sent=49.999, received=50.001)
    clock.sync(1007.0, sent=49.9, received=50.1)
    assert abs(clock.now() - 1007.0) < 1e-9


class _Steps:
    """A clock, and a Redis' clock that can be stepped under it."""

    def __init__(self) -> None:
        self.monotonic, self.redis = 50.0, 10_000.0
        self.clock = RedisClock(monotonic=lambda: self.monotonic)
        self.look()

    def look(self, after_s: float = 0.0, step_s: float = 0.0) -> None:
        """Ask Redis for its time, so much later, and after its clock has stepped."""
        self.monotonic += after_s
        self.redis += after_s + step_s
        self.clock.sync(self.redis, sent=self.monotonic - 0.001, received=self.monotonic)


def test_without_a_step_nothing_is_shifted() -> None:
    steps = _Steps()
    steps.look(100)
    steps.look(1, step_s=0.3)  # drift
    assert steps.clock.shift_s(10_000) == 0
    assert not steps.clock.has_news
    assert not steps.clock.has_stepped


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 10.0])
def test_what_was_written_before_a_step_is_shifted_by_it_and_nothing_later(step_s: float) -> None:
    steps = _Steps()
    steps.look(1, step_s=step_s)
    assert steps.clock.shift_s(10_000) == pytest.approx(step_s, abs=0.01)
    assert steps.clock.shift_s(steps.redis) == 0
    # By one that had not noticed yet.
    assert steps.clock.shift_s(10_001.5) == pytest.approx(step_s, abs=0.01)
    steps.look(600)
    assert steps.clock.shift_s(10_000) == pytest.approx(step_s, abs=0.01)
    assert steps.clock.shift_s(steps.redis - 300) == 0
    assert (steps.clock.stepped_ahead_at == 51.0) is (step_s > 0)


@pytest.mark.parametrize("first_s", [3600.0, -3600.0])
def test_a_step_that_is_taken_back_leaves_times_as_they_were(first_s: float) -> None:
    steps = _Steps()
    steps.look(1, step_s=first_s)
    between = steps.redis
    steps.look(20, step_s=-first_s)
    for written_at in (10_000, steps.redis):
        assert steps.clock.shift_s(written_at) == pytest.approx(0, abs=0.01)
    assert steps.clock.shift_s(between) == pytest.approx(-first_s, abs=0.01)


def test_two_threads_that_notice_one_step_count_it_once() -> None:
    steps = _Steps()
    steps.look(1, step_s=3600)
    steps.look(0)
    steps.clock.sync(10_001.0, sent=50.9, received=51.0)  # asked before it
    assert steps.clock.shift_s(10_000) == pytest.approx(3600, abs=0.01)
    assert steps.clock.now() == pytest.approx(steps.redis, abs=0.01)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_process_that_begins_later_learns_of_a_step_and_passes_none_on(step_s: float) -> None:
    old, late = _Steps(), _Steps()
    old.look(1, step_s=step_s)
    shared = old.clock.merge([])
    assert len(shared) == 1
    late.redis, late.monotonic = old.redis + 5, 900.0
    late.clock = RedisClock(monotonic=lambda: late.monotonic)
    late.look()
    assert late.clock.merge(shared) == []
    assert old.clock.has_stepped
    assert late.clock.has_stepped
    for clock in (old.clock, late.clock):
        assert clock.shift_s(10_000) == pytest.approx(step_s, abs=0.01)
        assert clock.shift_s(old.redis) == 0


@pytest.mark.parametrize("later_s", [0.4, 500.0])
def test_one_step_noticed_by_two_processes_is_one(later_s: float) -> None:
    one, two = _Steps(), _Steps()
    one.look(1, step_s=3600)
    shared = one.clock.merge([])
    two.look(1 + later_s, step_s=3600)
    assert two.clock.merge(shared) == []
    assert two.clock.shift_s(10_000) == pytest.approx(3600, abs=0.01)
    # Even if both told of it at the same moment.
    two = _Steps()
    two.look(1.4, step_s=3600)
    both = [*shared, *two.clock.merge([])]
    one.clock.merge(both)
    assert one.clock.shift_s(10_000) == pytest.approx(3600, abs=0.01)


def test_after_a_step_back_times_from_before_it_are_the_latest() -> None:
    its = _Steps()
    its.look(10)
    assert its.clock.latest() == its.clock.now()
    its.look(1, -3600)
    assert abs(its.clock.latest() - 10_011) < 0.01
    its.look(1, 7200)
    assert its.clock.latest() == its.clock.now() > 13_000
