"""What a page tells of a reason; that its script cuts alike is tests/browser/test_failures.py's."""

import pytest

from web.pages.reasons import MOST, told


@pytest.mark.parametrize(
    ("reason", "short", "whole"),
    [
        ("", "", ""),
        ("no weights", "no weights", "no weights"),
        ("m: no weights. Three ways out: ...", "m: no weights.", "m: no weights. Three ways out: ..."),
        ("m: /srv/models/m/n.onnx is broken", "m: n.onnx is broken", "m: n.onnx is broken"),
        ("m: path=/srv/m/n.h5, '/srv/x'", "m: path=n.h5, 'x'", "m: path=n.h5, 'x'"),
        ("m: version 1.5 of models/n.h5", "m: version 1.5 of models/n.h5", "m: version 1.5 of models/n.h5"),
        (f"{'x' * 300}. End", f"{'x' * MOST} …", f"{'x' * 300}. End"),
        ("OSError:/srv/a/b.h5 file:///srv/c.h5", "OSError:b.h5 c.h5", "OSError:b.h5 c.h5"),
        ("m: https://example.org/a/b.h5", "m: https://example.org/a/b.h5", "m: https://example.org/a/b.h5"),
    ],
)
def test_its_first_sentence_without_folders(reason: str, short: str, whole: str) -> None:
    assert told(reason) == (short, whole)
