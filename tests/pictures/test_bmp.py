"""BMPs that browsers show and Pillow does not read."""

import struct
import time

import numpy as np
import pytest

from broker.errors import ClientError
from pictures.decode import ImageTooLarge, InvalidImage, decode


def _bmp(header: bytes, table: bytes, rows: bytes) -> bytes:
    start = 14 + len(header) + len(table)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + header + table + rows


def _info(width: int, height: int, bits: int, compression: int = 0, colours: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)


def _row(upload: bytes) -> list[list[int]]:
    pixels: list[list[int]] = np.asarray(decode(upload, max_pixels=100).convert("RGB"))[0].tolist()
    return pixels


FOUR = b"".join(bytes((n, n + 1, n + 2, 0)) for n in (10, 20, 30, 40))


def test_two_bits_a_pixel() -> None:
    assert _row(_bmp(_info(2, 1, 2), FOUR, b"\x60\0\0\0")) == [[22, 21, 20], [32, 31, 30]]


def test_a_palette_longer_than_its_bits_can_name() -> None:
    table = FOUR + b"\0" * 4 * 296
    assert _row(_bmp(_info(1, 1, 8, colours=300), table, b"\1\0\0\0")) == [[22, 21, 20]]


def test_os_2_s_short_header() -> None:
    header = struct.pack("<IiiHH", 16, 2, 1, 1, 8)
    assert _row(_bmp(header, FOUR + b"\0" * 1008, b"\0\2\0\0")) == [[12, 11, 10], [32, 31, 30]]


@pytest.mark.parametrize(
    ("bits", "masks", "value", "expected"),
    [
        (16, (0x0F00, 0x00F0, 0x000F), 0x0F80, [255, 136, 0]),
        (16, (0xC000, 0x3800, 0x0001), 0xC001, [255, 0, 255]),
        (32, (0x3FF00000, 0xFFC00, 0x3FF), 0x3FF803FF, [255, 128, 255]),
    ],
)
def test_any_masks(bits: int, masks: tuple[int, ...], value: int, expected: list[int]) -> None:
    upload = _bmp(_info(1, 1, bits, 3), struct.pack("<III", *masks), struct.pack("<I", value))
    assert _row(upload) == [expected]


def test_alpha_is_laid_on_white() -> None:
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    upload = _bmp(_info(2, 1, 32, 6), masks, struct.pack("<II", 0x00000000, 0xFF0000FF))
    assert _row(upload) == [[255, 255, 255], [255, 0, 0]]


def test_alpha_that_is_nowhere_is_no_transparency() -> None:
    """Some writers leave it zero in every pixel; browsers show the colours."""
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    upload = _bmp(_info(2, 1, 32, 6), masks, struct.pack("<II", 0x00030201, 0x00060504))
    assert _row(upload) == [[1, 2, 3], [4, 5, 6]]


def test_rows_go_upwards_unless_the_height_is_negative() -> None:
    rows = b"\x00\0\0\0" + b"\xc0\0\0\0"
    for height, first in ((2, 42), (-2, 12)):
        assert _row(_bmp(_info(1, height, 2), FOUR, rows))[0][0] == first


def test_what_the_header_says_is_judged_first() -> None:
    with pytest.raises(ImageTooLarge):
        decode(_bmp(_info(60_000, 60_000, 2), FOUR, b""), max_pixels=100)
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(_bmp(_info(9, 9, 2), FOUR, b"\0" * 8), max_pixels=100)


@pytest.mark.parametrize("at", range(14, 54))
@pytest.mark.parametrize("value", [0, 1, 3, 255])
def test_no_header_does_harm(at: int, value: int) -> None:
    upload = bytearray(_bmp(_info(2, 1, 16, 3), struct.pack("<III", 0xF00, 0xF0, 0xF), b"\0" * 8))
    upload[at] = value
    try:
        decode(bytes(upload), max_pixels=100)
    except ClientError as error:
        assert error.message  # noqa: PT017 - refused or decoded, and nothing else


def _packed(width: int, height: int, bits: int, runs: bytes) -> bytes:
    table = b"".join(bytes((n, n, n, 0)) for n in range(1 << bits))
    return _bmp(_info(width, height, bits, {8: 1, 4: 2}[bits]), table, runs)


def _greys(upload: bytes) -> list[list[int]]:
    greys: list[list[int]] = np.asarray(decode(upload, max_pixels=100).convert("L")).tolist()
    return greys


@pytest.mark.parametrize(
    ("bits", "runs", "expected"),
    [
        (8, b"\3\7\1\x09\0\0\4\5\0\1", [[5, 5, 5, 5], [7, 7, 7, 9]]),
        (8, b"\0\3\1\2\3\0\0\0\0\4\4\5\6\7\0\1", [[4, 5, 6, 7], [1, 2, 3, 0]]),
        (8, b"\1\1\0\2\1\1\2\2\0\1", [[0, 0, 2, 2], [1, 0, 0, 0]]),
        (8, b"\x09\1\0\0\1\2\0\0\5\5", [[2, 0, 0, 0], [1, 1, 1, 1]]),
        (8, b"\4\1\0\0\4\2", [[2, 2, 2, 2], [1, 1, 1, 1]]),
        (4, b"\3\x12\0\0\0\3\x34\x50\0\1", [[3, 4, 5, 0], [1, 2, 1, 0]]),
        (4, b"\4\xab\0\0\0\4\x12\x34\0\1", [[1, 2, 3, 4], [10, 11, 10, 11]]),
    ],
)
def test_runs_are_unpacked(bits: int, runs: bytes, expected: list[list[int]]) -> None:
    assert _greys(_packed(4, 2, bits, runs)) == expected


def test_runs_without_an_end_are_broken() -> None:
    for runs in (b"", b"\4\1\0\0", b"\4\1\0\2\1", b"\4\1\0\2"):
        with pytest.raises(InvalidImage, match="broken or cut short"):
            decode(_packed(4, 2, 8, runs), max_pixels=100)
    with pytest.raises(ImageTooLarge):
        decode(_packed(60_000, 60_000, 8, b"\0\1"), max_pixels=100)


@pytest.mark.slow
@pytest.mark.parametrize("runs", [b"\xff\x12" * 31 + b"\x5f\x12\0\0", b"\0\0"], ids=["full", "empty"])
def test_megapixels_in_runs_are_little_work(runs: bytes) -> None:
    """5 s in Pillow, of 64 megapixels."""
    begun = time.process_time()
    assert decode(_packed(8000, 8000, 4, runs * 8000), max_pixels=64_000_000).size == (8000, 8000)
    assert time.process_time() - begun < 3
