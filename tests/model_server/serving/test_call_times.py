"""How many pictures fit into a time: of networks that cost by the picture, by the call, and both."""

import math
import random
import statistics

import pytest

from model_server.serving.call_times import FIRST, CallTimes


def _settled(fixed_s: float, each_s: float, *, within_s: float, noise: float = 0.0) -> list[int]:
    """The sizes of 40 batches of a queue that is never empty."""
    chance, times, sizes = random.Random(1), CallTimes(), []
    for _ in range(40):
        sizes.append(times.most(32, within_s=within_s))
        times.add(sizes[-1], (fixed_s + each_s * sizes[-1]) * (1 + noise * chance.uniform(-1, 1)))
    return sizes


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "within_s", "size"),
    [
        (0.0, 0.1, 1.25, 12),
        (0.5, 0.1, 1.25, 7),
        (0.0, 2.0, 1.25, 1),
        (0.0, 0.001, 1.25, 32),
        (1.0, 0.0, 1.25, 32),  # by the call, and in time
        (2.0, 0.0, 1.25, 32),  # whatever it has it is late: fewer pictures would only make it dearer
    ],
)
def test_it_settles(fixed_s: float, each_s: float, within_s: float, size: int) -> None:
    settled = _settled(fixed_s, each_s, within_s=within_s)
    assert settled[0] == FIRST
    mean = sum(settled[10:]) / len(settled[10:])
    assert mean == pytest.approx(size, rel=0.15, abs=1)


def test_noise_moves_it_little() -> None:
    settled = _settled(0.0, 0.1, within_s=1.25, noise=0.2)[5:]
    assert 8 <= sum(settled) / len(settled) <= 16


def test_lone_pictures_on_a_network_that_costs_by_the_call_do_not_keep_batches_small() -> None:
    times = CallTimes()
    for pictures in (1, 1, 1):
        times.add(pictures, 1.0)
    assert times.most(32, within_s=1.25) == 2
    times.add(2, 1.0)
    assert times.most(32, within_s=1.25) >= 8
    times.add(8, 1.0)
    assert times.most(32, within_s=1.25) >= 16


def test_a_batch_is_never_larger_than_it_may_be() -> None:
    times = CallTimes()
    assert times.most(4, within_s=1.25) == 4
    times.add(4, 0.001)
    assert times.most(4, within_s=1.25) == 4


def test_after_a_call_that_took_too_long_nothing_larger_is_tried() -> None:
    times = CallTimes()
    times.add(8, 2.5)
    assert times.most(32, within_s=1.25) == 4


def _shared(
    times: CallTimes, fixed_s: float, each_s: float, *, noise: float = 0.0, calls: int = 60
) -> list[int]:
    """The sizes of batches of a queue that is never empty, while owners share it."""
    chance, sizes = random.Random(1), []
    for _ in range(calls):
        sizes.append(times.efficient(32))
        slow = math.exp(chance.gauss(0, noise)) * (3 if noise and chance.random() < 0.05 else 1)
        times.add(sizes[-1], (fixed_s + each_s * sizes[-1]) * slow)
    return sizes


@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["idle cores", "busy cores"])
@pytest.mark.parametrize("before", [(), (32,) * 9, (1,) * 9, (5, 2, 9, 1)], ids=str)
@pytest.mark.parametrize(
    ("fixed_s", "each_s", "size"),
    [
        (0.0, 0.04, 1),  # a small call is as good as any
        (0.0045, 0.037, 1),  # ResNet50 on two cores: 24 pictures a second, and 27 with 32
        (0.04, 0.04, 2),  # 17 a second, and 24 with 32
        (0.5, 0.0, 32),  # by the call
        (0.005, 0.0004, 16),  # of a graphics card: 1,400 a second, and 1,800
    ],
)
def test_the_fewest_that_give_nearly_as_many_a_second(
    fixed_s: float, each_s: float, size: int, before: tuple[int, ...], noise: float
) -> None:
    times = CallTimes()
    assert times.efficient(32) == 32  # nobody knows
    for pictures in before:
        times.add(pictures, fixed_s + each_s * pictures)
    settled = _shared(times, fixed_s, each_s, noise=noise)[20:]
    assert size / (2 if noise else 1) <= statistics.median(settled) <= size * (2 if noise else 1)


@pytest.mark.parametrize(
    ("before", "fixed_s", "each_s", "right"),
    [
        ((20,) * 10, 0.5, 0.0, 32),
        ((31,) * 10, 0.5, 0.0, 32),
        ((3,) * 10, 0.04, 0.04, 2),
        ((5,) * 10, 0.0, 0.04, 1),
    ],
)
def test_a_queue_that_was_short_does_not_keep_batches_small(
    before: tuple[int, ...], fixed_s: float, each_s: float, right: int
) -> None:
    """Batches of what was there, none of the size that is efficient; then a flood."""
    times = CallTimes()
    _shared(times, fixed_s, each_s)
    for pictures in before:
        times.add(pictures, fixed_s + each_s * pictures)
    assert statistics.median(_shared(times, fixed_s, each_s)) == right


def test_looking_leaves_no_queue_behind() -> None:
    """Forty pictures a second come to a network of 64, in batches of what has come."""
    times, waiting = CallTimes(), 0
    for _ in range(400):
        waiting += 20
        taken = min(waiting, times.efficient(32))
        waiting -= taken
        times.add(taken, 0.5)
    assert waiting <= 20


def test_a_batch_costs_something_besides_its_call() -> None:
    """A call of 0.7 ms for one picture is not all: by calls alone two would be enough."""
    times = CallTimes()
    assert statistics.median(_shared(times, 0.0002, 0.0005, calls=20_000)) >= 8


def test_what_slows_all_calls_alike_changes_nothing() -> None:
    times = CallTimes()
    _shared(times, 0.0, 0.04)
    assert statistics.median(_shared(times, 0.0, 0.4)) == 1
    assert statistics.median(_shared(times, 0.0, 0.004)) == 1


def test_it_notices_another_network_s_times() -> None:
    times = CallTimes()
    for fixed_s, each_s, calls, size in ((0.0, 0.1, 20, 1), (2.0, 0.0, 60, 32), (0.0, 0.1, 100, 1)):
        assert statistics.median(_shared(times, fixed_s, each_s, calls=calls)[-9:]) == size


def test_calls_of_nearly_one_size_say_nothing() -> None:
    """One of 32 pictures that is faster than one of 31 does not make a network cost by the call."""
    times = CallTimes()
    for pictures, seconds in [(1, 0.04), (32, 1.28), *[(31, 1.4), (32, 1.2)] * 8]:
        times.add(pictures, seconds)
    assert times.efficient(32) <= 2


def test_looking_costs_little() -> None:
    """Calls of another size than the efficient are few, also where each takes long."""
    for fixed_s, each_s, size in ((0.5, 0.0, 32), (20.0, 0.0, 32), (0.0, 0.04, 1)):
        times = CallTimes()
        _shared(times, fixed_s, each_s)
        others = [each for each in _shared(times, fixed_s, each_s, calls=200) if each != size]
        assert 0 < len(others) <= 200 / 9


def test_an_efficient_batch_is_no_larger_than_it_may_be() -> None:
    times = CallTimes()
    _shared(times, 0.5, 0.0)
    assert [times.efficient(most) for most in (1, 12, 24, 32)] == [1, 8, 16, 32]
