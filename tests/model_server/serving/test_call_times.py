"""How many pictures fit into a time: of networks that cost by the picture, by the call, and both."""

import random

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


@pytest.mark.parametrize(
    ("fixed_s", "each_s", "size"),
    [
        (0.0, 0.1, 1),  # a small call is as good as any
        (0.0009, 0.00735, 2),  # ResNet50 on two cores
        (0.3, 0.1, 21),  # 21 pictures in 2.4 s are 8.75 a second, 32 in 3.5 s are 9.14
        (1.0, 0.0001, 31),
    ],
)
def test_the_fewest_that_give_nearly_as_many_a_second(fixed_s: float, each_s: float, size: int) -> None:
    times = CallTimes()
    assert times.efficient(32) == 32  # nobody knows
    for pictures in (8, 11, 14):
        times.add(pictures, fixed_s + each_s * pictures)
        times.most(32, within_s=10.0)
    assert times.efficient(32) == pytest.approx(size, abs=1)
    for _ in range(50):  # calls of one size say nothing of others, and take back nothing
        times.add(4, fixed_s + each_s * 4)
        times.most(32, within_s=10.0)
    assert times.efficient(32) == pytest.approx(size, abs=1)
