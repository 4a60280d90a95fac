"""The search, on servers whose limit is known."""

import asyncio
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measuring.search import HIGHEST_RATE, LOWEST_RATE, RateSearch, highest


def search(
    meets: Callable[[float], bool],
    *,
    first: float = 100.0,
    low: float = LOWEST_RATE,
    high: float = HIGHEST_RATE,
    within: float = 0.05,
) -> RateSearch:
    asked: list[tuple[float, bool]] = []

    async def ask(rate: float) -> bool:
        asked.append((rate, meets(rate)))
        return asked[-1][1]

    found = asyncio.run(highest(ask, first=first, low=low, high=high, within=within))
    assert found.tried == asked
    assert all(low <= rate <= high for rate, _ in asked)
    return found


@pytest.mark.parametrize("limit", [1, 1.5, 7, 42, 100, 333, 1024, 9999, 10_000])
def test_the_limit_is_found(limit: float) -> None:
    for first in (0.1, 1, 20, 1000, 1e7):
        found = search(lambda rate: rate <= limit, first=first)
        assert found.rate
        assert found.missed
        assert found.rate <= limit < found.missed
        assert found.missed / found.rate <= 1.05 + 1e-9
        assert found.tried.count((found.rate, True)) == 2
        assert len(found.tried) <= 40


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(1, 10_000), st.floats(1, 10_000), st.sampled_from([0.01, 0.05, 0.2, 1.0]))
def test_the_limit_is_found_as_finely_as_asked(limit: float, first: float, within: float) -> None:
    found = search(lambda rate: rate <= limit, first=first, within=within)
    assert found.rate
    assert found.missed
    assert found.rate <= limit < found.missed
    # Three digits are the finest there is: 1.00 and 1.01 are 1 % of each other.
    assert found.missed / found.rate <= 1 + max(within, 0.0101)
    assert len(found.tried) <= 30


@pytest.mark.parametrize(
    ("limit", "first", "path"),
    [
        (605, 100, [100, 160, 256, 410, 656, 519, 583, 618, 600]),
        (100, 600, [600, 375, 234, 146, 91.2, 115, 102, 96.4, 99.2]),
    ],
)
def test_it_grows_or_shrinks_and_then_halves(limit: float, first: float, path: list[float]) -> None:
    found = search(lambda rate: rate <= limit, first=first, within=0.035)
    assert [rate for rate, _ in found.tried][:-1] == path


def test_five_per_cent_and_a_million_are_the_defaults() -> None:
    async def meets(rate: float) -> bool:
        return rate <= limit

    limit = 1000.0
    assert asyncio.run(highest(meets, first=limit)).missed == 1030
    limit = 1e9
    assert asyncio.run(highest(meets, first=limit)).rate == 1e6


def test_a_good_first_guess_saves_tries() -> None:
    near, far = (search(lambda rate: rate <= 3000, first=first) for first in (2900, 1))
    assert len(near.tried) <= 7 < len(far.tried)


@pytest.mark.parametrize("first", [1, 10, 500])
def test_nothing_meets(first: float) -> None:
    found = search(lambda _: False, first=first, low=2)
    assert (found.rate, found.missed) == (None, 2)
    assert found.tried[0] == (max(first, 2), False)
    assert len(found.tried) <= 15


@pytest.mark.parametrize(("first", "high"), [(10, 500), (500, 500), (900, 500), (10, 1234.5)])
def test_everything_meets_up_to_the_highest(first: float, high: float) -> None:
    found = search(lambda _: True, first=first, high=high)
    assert (found.rate, found.missed) == (high, None)
    assert found.tried[-2:] == [(high, True)] * 2


@pytest.mark.parametrize("within", [0.0001, 0.001, 0.05])
@pytest.mark.parametrize(("low", "high"), [(1234, 1238), (100.04, 100.06), (10, 10.5)])
def test_narrow_bounds_are_kept(low: float, high: float, within: float) -> None:
    middle = (low + high) / 2
    found = search(lambda rate: rate <= middle, first=low, low=low, high=high, within=within)
    assert found.rate
    assert found.missed
    assert low <= found.rate <= middle < found.missed <= high


@pytest.mark.parametrize("within", [0.01, 0.05])
@pytest.mark.parametrize("lucky", [110, 130, 160])
def test_a_rate_met_once_by_luck_is_not_the_result(lucky: float, within: float) -> None:
    luck = [True]

    def meets(rate: float) -> bool:
        return rate <= 100 or (rate <= lucky and bool(luck) and luck.pop())

    found = search(meets, first=lucky, within=within)
    assert not luck
    assert found.tried[0] == (lucky, True)
    assert found.rate
    assert found.rate <= 100 < found.rate * (1 + within)


def test_a_noisy_server() -> None:
    found_none = 0
    for seed in range(200):
        chance = random.Random(seed)
        found = search(lambda rate, c=chance: c.random() < (0.95 if rate <= 100 else 0.1))  # type: ignore[misc]
        assert len(found.tried) <= 60
        missed = min(rate for rate, met in found.tried if not met)
        if found.rate is None:
            found_none += 1
        else:
            assert found.tried.count((found.rate, True)) == 2
            assert found.rate < missed == found.missed
    assert found_none < 5


def test_a_server_of_mere_chance_ends_too() -> None:
    tries = []
    for seed in range(100):
        chance = random.Random(seed)
        tries.append(len(search(lambda _, c=chance: c.random() < 0.6, within=0.001).tried))  # type: ignore[misc]
    assert max(tries) <= 60


def test_a_server_that_never_keeps_its_word_is_left_after_sixty_tries() -> None:
    known: list[float] = []

    def meets(rate: float) -> bool:
        known.append(rate)
        return known.count(rate) == 1

    found = search(meets, first=1, low=0.001, within=0.0001)
    assert (found.rate, len(found.tried)) == (None, 60)
    assert found.missed == min(rate for rate, met in found.tried if not met)


def test_the_lowest_rate_met_once_only_is_no_result() -> None:
    answers = iter([True, False, False])
    found = search(lambda _: next(answers), first=10, low=10, high=10.2)
    assert (found.rate, found.missed) == (None, 10)


def test_rates_have_three_digits() -> None:
    found = search(lambda rate: rate <= 777.77, first=123.456, within=0.01)
    assert found.tried[0] == (123.0, True)
    assert all(rate == float(f"{rate:.3g}") for rate, _ in found.tried)
