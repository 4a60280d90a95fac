"""How a page shortens a reason. tests/browser/test_failures.py checks that its script cuts it alike."""

import pytest

from web.pages.reasons import MOST, shorten


@pytest.mark.parametrize(
    ("reason", "short", "whole"),
    [
        ("", "", ""),
        ("no weights", "no weights", "no weights"),
        ("m: no weights. Three ways out: ...", "m: no weights.", "m: no weights. Three ways out: ..."),
        ("m: version 1.5 of models/n.h5", "m: version 1.5 of models/n.h5", "m: version 1.5 of models/n.h5"),
        (f"{'x' * 300}. End", f"{'x' * MOST} …", f"{'x' * 300}. End"),
        ("m: https://example.org/a/b.h5", "m: https://example.org/a/b.h5", "m: https://example.org/a/b.h5"),
    ],
)
def test_its_first_sentence(reason: str, short: str, whole: str) -> None:
    assert shorten(reason) == (short, whole)
