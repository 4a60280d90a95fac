"""From none to some model servers and back to none, by the rules that KEDA gets; no request is lost."""

import signal

import pytest

from benchmarks import scaling
from benchmarks.scaling import SCALED_OBJECT, Autoscaler, Rules

RULES = Rules.read(SCALED_OBJECT, speed=1)
IDLE = (0.0, 0.0, 0.0)
"""Jobs, the oldest one's age, asked."""


def test_a_picture_at_zero_starts_one_whether_it_waits_or_was_refused() -> None:
    for values in ((1.0, 0.1, 1.0), (0.0, 0.0, 1.0)):
        assert Autoscaler(RULES).wanted(values, servers=0, ready=0, now=0) == 1
    assert Autoscaler(RULES).wanted(IDLE, servers=0, ready=0, now=0) == 0


def test_one_stays_while_pictures_come_and_goes_when_none_came_for_a_while() -> None:
    autoscaler = Autoscaler(RULES)
    assert autoscaler.wanted((0.0, 0.0, 1.0), servers=1, ready=1, now=0) == 1
    assert autoscaler.wanted(IDLE, servers=1, ready=1, now=299) == 1
    assert autoscaler.wanted(IDLE, servers=1, ready=1, now=300) == 0


@pytest.mark.parametrize(
    ("jobs", "oldest_s", "servers", "wanted"),
    [(128, 1, 1, 2), (1000, 1, 1, 5), (1000, 1, 8, 10), (60, 16, 2, 4), (60, 8, 2, 2), (10, 1, 3, 1)],
)
def test_length_and_age_say_how_many(jobs: float, oldest_s: float, servers: int, wanted: int) -> None:
    values = (jobs, oldest_s, 1.0)
    assert Autoscaler(RULES).wanted(values, servers=servers, ready=servers, now=0) == wanted


def test_it_goes_down_to_what_the_last_two_minutes_wanted() -> None:
    autoscaler = Autoscaler(RULES)
    assert autoscaler.wanted((256.0, 1.0, 1.0), servers=4, ready=4, now=0) == 4
    assert autoscaler.wanted((0.0, 0.0, 1.0), servers=4, ready=4, now=60) == 4
    assert autoscaler.wanted((0.0, 0.0, 1.0), servers=4, ready=4, now=121) == 1


@pytest.mark.slow
def test_a_day_with_real_processes_loses_nothing() -> None:
    day = scaling.run(day_s=6, peak=60, speed=100)
    assert day.outcomes["right"] == day.outcomes.total() > 50, day.report()
    assert day.servers[0][1] == day.servers[-1][1] == 0, day.report()
    assert day.started >= 1
    assert set(day.exits) <= {0, -signal.SIGTERM}  # that of one which had not begun
    assert day.exits.total() == day.started
