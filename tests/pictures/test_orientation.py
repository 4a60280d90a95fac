"""The orientation in Exif data: one SHORT, found without reading the rest."""

import struct
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pictures import orientation
from pictures.decode import decode
from tests.support.pictures import encoded

SHORT, LONG, RATIONAL = 3, 4, 5


def _exif(order: str, kind: int = SHORT, count: int = 1, value: int = 6, before: int = 0) -> bytes:
    """A directory of some other entries, the orientation, and one more."""
    other = struct.pack(f"{order}HHII", 0x0100, SHORT, 1, 0) * before
    # A SHORT stands in the first half of an entry's value.
    held = struct.pack(f"{order}HH", value, 0) if kind == SHORT else struct.pack(f"{order}I", value)
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count) + held
    last = struct.pack(f"{order}HHII", 0x8769, LONG, 1, 0)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, before + 2)
    return head + other + entry + last + b"\0\0\0\0"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_it_is_read_in_both_orders(order: str, value: int) -> None:
    for prefix in (b"", b"Exif\0\0"):
        assert orientation.stored(prefix + _exif(order, value=value, before=3)) == value


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"XX*\0" + _exif("<")[4:],
        _exif("<")[:14],
        _exif("<", value=0),
        _exif("<", value=9),
        _exif("<", kind=LONG),
        _exif("<", count=2),
        _exif("<", before=6000),  # beyond 64 KB
        b"II*\0" + struct.pack("<I", 2**32 - 1),
    ],
)
def test_without_one_that_can_be_read_a_picture_is_upright(exif: bytes) -> None:
    assert orientation.stored(exif) == orientation.UPRIGHT


@given(exif=st.binary(max_size=60))
def test_any_bytes_are_an_orientation(exif: bytes) -> None:
    assert 1 <= orientation.stored(b"II*\0" + exif) <= 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_turned_by_it(kind: str) -> None:
    upload = encoded(Image.new("RGB", (8, 6)), kind, exif=b"Exif\0\0" + _exif(">"))
    assert decode(upload, max_pixels=100).size == (6, 8)


@pytest.mark.slow
def test_millions_of_fractions_are_not_read() -> None:
    """They took Pillow 17 s."""
    count = 2_400_000
    exif = _exif("<", kind=RATIONAL, count=count, value=38) + struct.pack("<II", 1, 3) * count
    plain = encoded(Image.new("RGB", (8, 6)))
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    begun = time.process_time()
    assert decode(plain[:33] + chunk + plain[33:], max_pixels=100).size == (8, 6)
    assert time.process_time() - begun < 3
