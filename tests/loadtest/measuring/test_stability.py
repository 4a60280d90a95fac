"""When a load has settled: its last three windows agree in rate and in median."""

import pytest

from loadtest.measuring.stability import is_stable

Windows = list[tuple[float, float | None]]


@pytest.mark.parametrize(
    ("windows", "stable"),
    [
        ([(100, 0.1), (100, 0.1), (100, 0.1)], True),
        ([(98, 0.1), (100, 0.1), (102, 0.1)], True),  # 4 % apart
        ([(97, 0.1), (100, 0.1), (103, 0.1)], False),  # 6 %
        ([(100, 0.097), (100, 0.1), (100, 0.103)], False),
        ([(100, 0.098), (100, 0.1), (100, 0.102)], True),
        ([(103, 0.1), (100, 0.1), (97, 0.1)], False),
        ([(50, 0.5), (100, 0.1), (100, 0.1), (100, 0.1)], True),  # only the last three count
        ([(100, 0.1), (100, 0.1), (100, 0.1), (50, 0.5)], False),
        ([(100, 0.1), (100, 0.1)], False),
        ([], False),
    ],
)
def test_the_last_three_windows_agree(windows: Windows, stable: bool) -> None:
    assert is_stable(windows, 0.05) is stable


@pytest.mark.parametrize(
    "windows",
    [
        [(100, None), (100, 0.1), (100, 0.1)],
        [(0, None), (0, None), (0, None)],
        [(100, 0.1), (100, 0.1), (100, 0.1), (0, None)],
        [(0, 9.0), (0, 9.0), (0, 9.0)],  # all of it was answered later than in its window
    ],
)
def test_a_window_without_answers_is_never_stable(windows: Windows) -> None:
    assert not is_stable(windows, 0.05)
    assert not is_stable(windows, 1.0)


def test_the_share_is_of_the_mean_and_may_be_just_reached() -> None:
    rates: Windows = [(9, 1.0), (10, 1.0), (11, 1.0)]
    medians: Windows = [(0.5, 9.0), (0.5, 10.0), (0.5, 11.0)]
    for windows in (rates, medians):
        assert is_stable(windows, 0.2)
        assert not is_stable(windows, 0.199)
