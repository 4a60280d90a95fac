"""What a GIF says before its first frame is bounded."""

import time

import numpy as np
import pytest
from PIL import Image

from pictures.decode import InvalidImage, decode
from tests.support.pictures import encoded

COLOURS = Image.new("P", (3, 2), 1)
COLOURS.putpalette([9, 9, 9, 200, 0, 100] + [0, 0, 0] * 254)
PLAIN = encoded(COLOURS, "GIF")
START = 13 + 3 * (2 << (PLAIN[10] & 7)) if PLAIN[10] & 0x80 else 13
"""Where the first extension or frame may be."""


def _with(extra: bytes) -> bytes:
    return PLAIN[:START] + extra + PLAIN[START:]


@pytest.mark.parametrize(
    "extra",
    [
        b"",
        b"\x21\xfe\x01a\0" * 50,
        b"\x21\xfe" + (b"\xff" + b"a" * 255) * 4000 + b"\0",
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0",
        b"\x21\xf9\x04\0\0\0\0\0",
        b"\0" * 100,
    ],
)
def test_what_editors_write_is_passed_over(extra: bytes) -> None:
    decoded = np.asarray(decode(_with(extra), max_pixels=6))
    assert decoded[1, 2].tolist() == [200, 0, 100]


@pytest.mark.parametrize(
    "extra",
    [
        b"\x21\xfe\x01a\0" * 4_000_000,  # 4 s in Pillow
        b"\x21\xfe" + b"\x01a" * 10_000_000 + b"\0",
        b"\0" * 20_000_000,
    ],
    ids=["comments", "blocks", "gap"],
)
def test_what_no_encoder_writes_is_refused_at_once(extra: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(_with(extra), max_pixels=6)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("cut", [6, 12, START, START + 3])
def test_one_that_ends_early_is_broken(cut: int) -> None:
    with pytest.raises(InvalidImage):
        decode(PLAIN[:cut], max_pixels=6)
