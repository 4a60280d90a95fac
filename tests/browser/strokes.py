"""Digits as a hand would draw them, and the hand. Points are shares of the paper's width and height."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Page, expect

DIGITS: Final = {
    "0": [[(0.5, 0.2), (0.34, 0.35), (0.33, 0.62), (0.5, 0.8), (0.67, 0.62), (0.66, 0.35), (0.5, 0.2)]],
    "1": [[(0.52, 0.18), (0.5, 0.5), (0.48, 0.82)]],
    "2": [[(0.32, 0.32), (0.45, 0.2), (0.62, 0.27), (0.62, 0.42), (0.33, 0.78), (0.7, 0.77)]],
    "3": [[(0.33, 0.2), (0.66, 0.2), (0.47, 0.45), (0.66, 0.6), (0.52, 0.8), (0.31, 0.76)]],
    "4": [[(0.38, 0.2), (0.3, 0.55), (0.7, 0.53)], [(0.62, 0.25), (0.58, 0.85)]],
    "7": [[(0.3, 0.22), (0.7, 0.22), (0.45, 0.82)]],
}


_STEPS: Final = 6


def _curve(points: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """A smooth way through points (Catmull-Rom)."""
    ends = np.array([points[0], *points, points[-1]])
    pieces = []
    for before, start, end, after in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        at = np.linspace(0, 1, _STEPS, endpoint=False)[:, np.newaxis]
        bend = 2 * before - 5 * start + 4 * end - after
        turn = 3 * (start - end) + after - before
        pieces.append(start + at / 2 * (end - before + at * (bend + at * turn)))
    return np.vstack([*pieces, ends[-1:]])


def draw(page: Page, digit: str) -> None:
    """Draw a digit with the mouse."""
    paper = page.locator("#paper")
    expect(paper).to_be_visible()
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box
    for stroke in DIGITS[digit]:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in _curve(stroke)]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()
