"""The rule by which new connections are shared among processes, on a page and a clock of its own."""

import mmap

import pytest

from tests.support.fakes import FakeClock
from web.server.balancing import PATIENCE_S, SILENT_S, SLACK, ConnectionBalance


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def pair(clock: FakeClock) -> tuple[ConnectionBalance, ConnectionBalance]:
    """Two processes that share a page."""
    page = mmap.mmap(-1, 4096)
    return ConnectionBalance(1, page=page, clock=clock), ConnectionBalance(2, page=page, clock=clock)


def test_alone_it_takes_every_connection(pair: tuple[ConnectionBalance, ConnectionBalance]) -> None:
    pair[0].tell(1000)
    assert not pair[0].leave(1000)
    assert pair[0].left_s() == 0


def test_who_has_clearly_more_leaves_it_for_a_moment_and_then_takes_it(
    pair: tuple[ConnectionBalance, ConnectionBalance], clock: FakeClock
) -> None:
    one, other = pair
    other.tell(5)
    assert not one.leave(5 + SLACK)
    assert one.leave(6 + SLACK)
    assert one.left_s() == pytest.approx(PATIENCE_S)
    clock.now += PATIENCE_S
    assert one.left_s() == 0
    assert not one.leave(6 + SLACK)  # it is there still
    assert one.leave(7 + SLACK)  # the next one is left again


def test_a_connection_that_comes_later_is_another(
    pair: tuple[ConnectionBalance, ConnectionBalance], clock: FakeClock
) -> None:
    one, other = pair
    other.tell(0)
    assert one.leave(10)
    clock.now += 3 * PATIENCE_S  # somebody took it
    assert one.leave(10)


def test_who_has_the_fewest_never_leaves_one(pair: tuple[ConnectionBalance, ConnectionBalance]) -> None:
    one, other = pair
    other.tell(50)
    assert not one.leave(50)
    assert not one.leave(0)


def test_one_that_is_silent_or_has_ended_does_not_count(
    pair: tuple[ConnectionBalance, ConnectionBalance], clock: FakeClock
) -> None:
    one, other = pair
    other.tell(0)
    clock.now += SILENT_S + 0.1
    assert not one.leave(10)
    other.tell(0)
    assert one.leave(10)
    clock.now += 1
    other.end()
    assert not one.leave(10)
    other.tell(0)
    assert not one.leave(10)


def test_one_that_has_ended_leaves_none_of_those_that_are_there(
    pair: tuple[ConnectionBalance, ConnectionBalance],
) -> None:
    one, other = pair
    other.tell(0)
    one.end()
    assert not one.leave(10)


def test_its_own_entry_is_none_of_the_others(pair: tuple[ConnectionBalance, ConnectionBalance]) -> None:
    one, _ = pair
    one.tell(0)
    assert not one.leave(10)


def test_a_number_beyond_the_page_has_a_place_on_it(clock: FakeClock) -> None:
    page = mmap.mmap(-1, 4096)
    one, other = (
        ConnectionBalance(7, page=page, clock=clock),
        ConnectionBalance(64_000_001, page=page, clock=clock),
    )
    other.tell(0)
    assert one.leave(10)
