"""RedisClock: an offset, learnt from the middle of a round trip."""

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
