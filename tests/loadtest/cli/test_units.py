"""The notations of the command line: what is read, what is refused, and how numbers are shown."""

import argparse
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.cli import units


@pytest.mark.parametrize(
    ("text", "value"), [("20", 20), ("0.5", 0.5), (".5", 0.5), ("1e3", 1000), ("1000000", 1e6)]
)
def test_number(text: str, value: float) -> None:
    assert units.number(text) == value


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1000000.1", "1,5"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a number above 0, at most a million"):
        units.number(text)


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("007", 7), ("1000000000", 10**9)])
def test_whole(text: str, value: int) -> None:
    assert units.whole(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "1.0", "1e3", "1_0", "٣", "1000000001", " 1", "9" * 5000])
def test_what_is_not_whole(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a whole number above 0, at most a billion"):
        units.whole(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("0", 0),
        ("10s", 10),
        ("200ms", 0.2),
        ("250us", 0.00025),
        ("1.5 s", 1.5),
        (".5s", 0.5),
        ("2m", 120),
        ("2min", 120),
        ("1h", 3600),
        ("1000000", 1e6),
    ],
)
def test_seconds(text: str, value: float) -> None:
    assert units.seconds(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1d", "1S", "1e3", "nan", "inf", "1.", "10s\n", "1 2"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a duration: write 200ms"):
        units.seconds(text)


@pytest.mark.parametrize("text", ["1000001", "278h", "9" * 400])
def test_a_duration_has_a_bound(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="longer than a million seconds"):
        units.seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("0.05", 0.05), ("100 %", 1), ("1", 1), ("0", 0), (".1%", 0.001)]
)
def test_share(text: str, value: float) -> None:
    assert units.share(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "%", "101%", "1.01", "-5%", "nan", "5%%", "5 % "])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a share: write 5%"):
        units.share(text)


@pytest.mark.parametrize("size", [(1280, 720), (1, 1), (65500, 1), (10000, 5000)])
def test_size(size: tuple[int, int]) -> None:
    assert units.size(f"{size[0]}x{size[1]}") == size


@pytest.mark.parametrize(
    "text",
    ["", "640", "640x", "640X480", "0x480", "640x0", "-1x5", "1x1x1", "65501x1", "1x65501", "10000x5001"],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a picture size: write 1280x720"):
        units.size(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20", [20]),
        ("1,8,32", [1, 8, 32]),
        ("10:40:10", [10, 20, 30, 40]),
        ("10:35:10", [10, 20, 30]),
        ("5:5:1", [5]),
        ("0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("1,10:20:10,5", [1, 10, 20, 5]),
        ("1:1000:1", list(range(1, 1001))),
    ],
)
def test_values(text: str, expected: list[float]) -> None:
    assert units.values(text) == pytest.approx(expected)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 500), st.integers(1, 300), st.sampled_from([0.05, 0.1, 0.3, 1, 2.5, 7]))
def test_both_ends_of_a_range_belong_to_it(start: int, steps: int, step: float) -> None:
    found = units.values(f"{start}:{start + steps * step!r}:{step}")
    assert len(found) == steps + 1
    assert found[0] == start
    assert found[-1] == pytest.approx(start + steps * step)


@pytest.mark.parametrize("text", ["", "1,", "1:2", "1:2:3:4", "20:10:1", "1:1001:1", "1:5:0", "1:1000:1,7"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        units.values(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", [("digits", 1)]),
        ("a,b", [("a", 0.5), ("b", 0.5)]),
        ("resnet50=3,digits=1", [("resnet50", 0.75), ("digits", 0.25)]),
        ("a=0.5,b", [("a", 1 / 3), ("b", 2 / 3)]),
    ],
)
def test_models(text: str, expected: list[tuple[str, float]]) -> None:
    found = units.models(text)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("text", ["", "a,", "=3", "a,a=2", "a=0", "a=x", "a=-1", "a=1=2"])
def test_what_is_no_list_of_models(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        units.models(text)


@pytest.mark.parametrize(
    "read", [units.number, units.whole, units.seconds, units.share, units.size, units.values]
)
def test_a_refusal_quotes_what_was_written(read: Callable[[str], object]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="'seven'"):
        read("seven")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (math.inf, "inf"),
        (1, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12346"),
        (0.12345, "0.123"),
        (0.0006, "0.001"),
        (-1.5, "-1.50"),
    ],
)
def test_shown(value: float | None, text: str) -> None:
    assert units.shown(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.2, "200 ms"), (0.0123, "12.3 ms"), (1, "1 s"), (1.5, "1.5 s"), (120, "120 s")]
)
def test_shown_seconds(value: float, text: str) -> None:
    assert units.shown_seconds(value) == text
