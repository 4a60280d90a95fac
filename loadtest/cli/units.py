"""What people write for times, shares, sizes and ranges, read into numbers.

Owns the notations of the command line, and how numbers are shown again. Every reader raises
argparse.ArgumentTypeError with the allowed form.
"""

import argparse
import math
import re
from typing import Final

MAX_POINTS: Final = 1000

_LONGEST_SIDE: Final = 65_500  # JPEG's

_SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def number(text: str) -> float:
    """Read a number above 0 and at most a million."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0, at most a million")
    return value


def whole(text: str) -> int:
    """Read a whole number above 0 and at most a billion."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or not 0 < int(text) <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0, at most a billion")
    return int(text)


def seconds(text: str) -> float:
    """Read a duration such as `200ms`, `10s`, `2m` or `10` (seconds). Returns seconds, 0 or more."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) *([a-z]*)", text)
    if not found or found[2] not in _SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 200ms, 10s, 2m or 1h")
    value = float(found[1]) * _SECONDS[found[2]]
    if value > 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than a million seconds")
    return value


def share(text: str) -> float:
    """Read a share such as `5%` or `0.05`. Returns 0..1."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) *(%?)", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: write 5% or 0.05")
    return value


def size(text: str) -> tuple[int, int]:
    """Read a picture's size such as `1280x720`. Returns (width, height) in pixels."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    width, height = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 0 < width * height <= 50_000_000 or max(width, height) > _LONGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a picture size: write 1280x720")
    return width, height


def values(text: str) -> tuple[float, ...]:
    """Read `20`, `1,8,32`, `10:200:10` (from, to, step; both ends belong to it), or a mixture."""
    found: list[float] = []
    for part in text.split(","):
        ends = [number(end) for end in part.split(":")]
        if len(ends) == 1:
            found += ends
        elif len(ends) == 3 and ends[0] <= ends[1] and (ends[1] - ends[0]) / ends[2] < MAX_POINTS:
            steps = int((ends[1] - ends[0]) / ends[2] + 1e-9)
            found += [ends[0] + n * ends[2] for n in range(steps + 1)]
        else:
            raise argparse.ArgumentTypeError(f"{text!r} is not a range: write 20, 1,8,32 or 10:200:10")
    if len(found) > MAX_POINTS:
        raise argparse.ArgumentTypeError(f"{text!r} has more than {MAX_POINTS} points")
    return tuple(found)


def models(text: str) -> tuple[tuple[str, float], ...]:
    """Read `resnet50` or `resnet50=3,digits=1`. Returns (name, weight) pairs; the weights add up to 1."""
    pairs: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        if not name or name in pairs:
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of models: write digits or a=3,b=1")
        pairs[name] = number(weight or "1")
    total = sum(pairs.values())
    return tuple((name, weight / total) for name, weight in pairs.items())


def shown(value: float | None) -> str:
    """Show a number with three digits that count, or all of its whole part."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 3)}f}"


def shown_seconds(value: float) -> str:
    """Show a duration as people write it: `200 ms`, `1.5 s`."""
    return f"{shown(value * 1000)} ms" if value < 1 else f"{value:g} s"
