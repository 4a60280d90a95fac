"""Schedules that neither drift nor overlap, and an Alarm that is never early."""

import asyncio
import math
import sys
import time
from itertools import chain, islice, pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.sending.arrivals import Alarm, due_times, share_of
from loadtest.sending.messages import Load

FIXED = Load(20, is_open=True)
POISSON = Load(20, is_open=True, poisson=True)


def schedule(
    load: Load,
    *,
    requests: int | None = None,
    duration_s: float | None = None,
    share: int = 0,
    shares: int = 1,
) -> list[tuple[int, float]]:
    return list(share_of(due_times(load, seed=1), share, shares, requests=requests, duration_s=duration_s))


@pytest.mark.slow
def test_fixed_arrivals_are_even_and_do_not_drift() -> None:
    assert list(islice(due_times(FIXED, 0), 4)) == [0, 0.05, 0.1, 0.15]
    assert next(islice(due_times(FIXED, 0), 1_000_000, None)) == 50_000
    assert next(islice(due_times(Load(3, is_open=True), 0), 300_000, None)) == 100_000


def test_poisson_arrivals_are_the_same_for_the_same_seed_only() -> None:
    first, second, other = (list(islice(due_times(POISSON, seed), 100)) for seed in (5, 5, 6))
    assert first == second
    assert not set(first) & set(other)


def test_the_first_poisson_arrival_is_a_gap_after_the_start() -> None:
    firsts = [next(due_times(POISSON, seed)) for seed in range(400)]
    assert 0 < min(firsts) < 0.001
    assert abs(sum(firsts) / 400 - 1 / 20) < 4 / 20 / math.sqrt(400)


def test_poisson_gaps_are_exponential_and_keep_the_rate() -> None:
    count = 20_000
    times = [0.0, *islice(due_times(POISSON, 3), count)]
    gaps = [after - before for before, after in pairwise(times)]
    # Kolmogorov and Smirnov's distance exceeds 1.95 / sqrt(count) once in a thousand seeds.
    distances = [abs(1 - math.exp(-20 * gap) - rank / count) for rank, gap in enumerate(sorted(gaps))]
    assert max(distances) < 1.95 / math.sqrt(count)
    # Nor does a gap say anything of the next one.
    products = [(gap * 20 - 1) * (following * 20 - 1) for gap, following in pairwise(gaps)]
    assert abs(sum(products) / count) < 4 / math.sqrt(count)


@pytest.mark.parametrize(
    ("rate", "requests", "duration_s", "expected"),
    [
        (4, 3, None, [0, 0.25, 0.5]),
        (4, None, 1.0, [0, 0.25, 0.5, 0.75]),
        (4, None, 1.01, [0, 0.25, 0.5, 0.75, 1.0]),
        (4, 2, 1.0, [0, 0.25]),
        (4, 100, 0.1, [0]),
    ],
)
def test_requests_and_duration_are_limits(
    rate: float, requests: int | None, duration_s: float | None, expected: list[float]
) -> None:
    found = schedule(Load(rate, is_open=True), requests=requests, duration_s=duration_s)
    assert found == list(enumerate(expected))


def test_poisson_arrivals_end_with_the_duration() -> None:
    times = [due for _, due in schedule(POISSON, duration_s=3.0)]
    assert times == list(takewhile(lambda due: due < 3.0, due_times(POISSON, 1)))


@pytest.mark.slow
@settings(derandomize=True, deadline=None)
@given(st.booleans(), st.integers(1, 9), st.none() | st.integers(1, 50), st.floats(0.01, 4))
def test_shares_partition_the_schedule(
    poisson: bool, shares: int, requests: int | None, duration_s: float
) -> None:
    load = POISSON if poisson else FIXED
    whole = schedule(load, requests=requests, duration_s=duration_s)
    parts = [
        schedule(load, requests=requests, duration_s=duration_s, share=share, shares=shares)
        for share in range(shares)
    ]
    assert sorted(chain(*parts)) == whole
    assert all(number % shares == share for share, part in enumerate(parts) for number, _ in part)


@pytest.mark.parametrize("timer", [True, False])
def test_the_alarm_is_never_early_and_works_again_and_again(
    timer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not timer:
        monkeypatch.setattr("sys.platform", "darwin")

    async def early() -> list[float]:
        alarm = Alarm()
        try:
            found = []
            for number in range(60):
                when = time.monotonic() + number % 7 * 0.0003
                await alarm.sleep_until(when)
                found.append(when - time.monotonic())
                # Nor is the event loop woken by it any more.
                assert alarm._file is None or not asyncio.get_running_loop().remove_reader(alarm._file)
            return found
        finally:
            alarm.close()

    found = asyncio.run(early())
    assert len(found) == 60
    assert max(found) <= 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the timer")
def test_waits_are_the_timers_which_is_finer_than_the_event_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = []

    async def sleep(delay: float) -> None:
        slept.append(delay)

    async def run() -> float:
        alarm = Alarm()
        when = time.monotonic() + 0.002
        await alarm.sleep_until(when)
        alarm.close()
        return time.monotonic() - when

    monkeypatch.setattr("loadtest.sending.arrivals.asyncio.sleep", sleep)
    assert asyncio.run(run()) >= 0
    assert slept == []


@pytest.mark.parametrize("ago_s", [0.0, 1.0, 1e9])
def test_the_alarm_returns_at_once_for_a_moment_that_has_passed_but_lets_others_run(ago_s: float) -> None:
    async def order() -> list[str]:
        alarm = Alarm()
        found: list[str] = []
        asyncio.get_running_loop().call_soon(found.append, "another")
        await alarm.sleep_until(time.monotonic() - ago_s)
        found.append("alarm")
        alarm.close()
        return found

    assert asyncio.run(order()) == ["another", "alarm"]


def test_the_alarm_can_be_cancelled_and_set_again() -> None:
    async def run() -> float:
        alarm = Alarm()
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(alarm.sleep_until(time.monotonic() + 0.02), 0.001)
            when = time.monotonic() + 0.03  # the first time passes meanwhile, and must not wake it
            await alarm.sleep_until(when)
            return time.monotonic() - when
        finally:
            alarm.close()

    assert asyncio.run(run()) >= 0


def test_the_alarm_does_without_a_timer_where_no_file_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        def timerfd_create(self, *_: int) -> int:
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Libc())

    async def run() -> float:
        alarm = Alarm()
        when = time.monotonic() + 0.002
        await alarm.sleep_until(when)
        alarm.close()
        return time.monotonic() - when

    assert asyncio.run(run()) >= 0


def test_closing_the_alarm_gives_its_file_back() -> None:
    async def files() -> set[int | None]:
        found = set()
        for _ in range(5):
            alarm = Alarm()
            found.add(alarm._file)
            alarm.close()
            alarm.close()  # a second time does nothing
        return found

    assert len(asyncio.run(files())) == 1
