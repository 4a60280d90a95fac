"""TIFFs: every kind of grey as a person sees it, and headers that would hold a core for minutes."""

import resource
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from pictures.decode import InvalidImage, decode
from tests.support.pictures import encoded

MANY = 64_000_000

BYTE, SHORT, LONG, RATIONAL = 1, 3, 4, 5
_CODES = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "Q"}

WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
UNSIGNED, SIGNED, REAL = 1, 2, 3

Tag = tuple[int, int, Sequence[int]]


def _tiff(order: str, data: bytes, tags: list[Tag]) -> bytes:
    """A TIFF of one directory, made by hand: Pillow writes none of these kinds."""
    entries, tail = b"", b""
    tail_at = 8 + len(data) + 2 + 12 * len(tags) + 4
    for tag, kind, values in sorted(tags, key=lambda each: each[0]):
        raw = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
        if len(raw) > 4:
            raw, tail = struct.pack(f"{order}I", tail_at + len(tail)), tail + raw
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0"
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + directory + tail


def _two_pixels(
    order: str, bits: Sequence[int], photometric: int, data: bytes, *, form: int = UNSIGNED, extra: int = -1
) -> bytes:
    tags: list[Tag] = [(256, SHORT, [2]), (257, SHORT, [1]), (258, SHORT, bits), (259, SHORT, [1])]
    tags += [(262, SHORT, [photometric]), (273, LONG, [8]), (277, SHORT, [len(bits)]), (278, SHORT, [1])]
    tags += [(279, LONG, [len(data)]), (339, SHORT, [form] * len(bits))]
    if extra >= 0:
        tags.append((338, SHORT, [extra]))
    return _tiff(order, data.ljust(16, b"\0"), tags)


def _greys(upload: bytes) -> list[int]:
    return [int(value) for value in np.asarray(decode(upload, max_pixels=2).convert("L"))[0]]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("photometric", "expected"), [(BLACK_IS_ZERO, [5, 255]), (WHITE_IS_ZERO, [250, 0])])
def test_grey_of_16_bits(order: str, photometric: int, expected: list[int]) -> None:
    upload = _two_pixels(order, [16], photometric, struct.pack(f"{order}2H", 0x5FF, 0xFFFF))
    assert _greys(upload) == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("photometric", "expected"), [(BLACK_IS_ZERO, [8, 255]), (WHITE_IS_ZERO, [247, 0])])
def test_the_white_of_12_bits_is_white(order: str, photometric: int, expected: list[int]) -> None:
    assert _greys(_two_pixels(order, [12], photometric, b"\x08\x0f\xff")) == expected


@pytest.mark.parametrize(("photometric", "expected"), [(BLACK_IS_ZERO, [0, 255]), (WHITE_IS_ZERO, [255, 0])])
def test_grey_of_32_bits_has_no_sign(photometric: int, expected: list[int]) -> None:
    assert _greys(_two_pixels("<", [32], photometric, struct.pack("<2I", 0, 2**32 - 1))) == expected


@pytest.mark.slow
def test_grey_of_32_bits_with_a_sign() -> None:
    upload = _two_pixels("<", [32], BLACK_IS_ZERO, struct.pack("<2i", -1, 2**31 - 1), form=SIGNED)
    assert _greys(upload) == [0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("photometric", "expected"), [(BLACK_IS_ZERO, [0, 255]), (WHITE_IS_ZERO, [255, 0])])
def test_real_grey(order: str, photometric: int, expected: list[int]) -> None:
    upload = _two_pixels(order, [32], photometric, struct.pack(f"{order}2f", 0.25, 0.75), form=REAL)
    assert _greys(upload) == expected


NOTHING, PREMULTIPLIED, ALPHA = 0, 1, 2


@pytest.mark.slow
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("photometric", "extra", "data", "expected"),
    [
        (BLACK_IS_ZERO, ALPHA, bytes((10, 255, 10, 0)), [10, 255]),
        (WHITE_IS_ZERO, ALPHA, bytes((10, 255, 10, 0)), [245, 255]),
        (WHITE_IS_ZERO, PREMULTIPLIED, bytes((10, 255, 0, 0)), [245, 255]),
        (WHITE_IS_ZERO, NOTHING, bytes((10, 255, 20, 0)), [245, 235]),
    ],
)
def test_grey_with_alpha(order: str, photometric: int, extra: int, data: bytes, expected: list[int]) -> None:
    assert _greys(_two_pixels(order, [8, 8], photometric, data, extra=extra)) == expected


@pytest.mark.slow
def test_a_palette() -> None:
    stored = Image.new("P", (2, 1), 1)
    stored.putpalette([9, 9, 9, 200, 0, 100])
    assert np.asarray(decode(encoded(stored, "TIFF"), max_pixels=2))[0].tolist() == [[200, 0, 100]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"])
def test_every_coding_without_loss(coding: str) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (30, 20, 3), dtype=np.uint8)
    upload = encoded(Image.fromarray(pixels), "TIFF", compression=coding)
    assert np.array_equal(np.asarray(decode(upload, max_pixels=600)), pixels)


@pytest.mark.parametrize("orientation", [3, 6])
def test_it_is_turned_upright_once(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.new("L", (4, 2))
    stored.putpixel((0, 0), 255)
    decoded = np.asarray(decode(encoded(stored, "TIFF", exif=exif), max_pixels=8))
    assert decoded.shape == ((2, 4) if orientation == 3 else (4, 2))
    assert decoded[-1 if orientation == 3 else 0, -1] == 255


FRACTION = 1 | 3 << 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tag", "kind", "value", "count"),
    [
        (273, LONG, 8, 4_900_000),  # strips, all of them at one place: 47 s and 1.25 GB in Pillow
        (282, RATIONAL, FRACTION, 2_400_000),  # the resolution: 11 s
        (274, RATIONAL, FRACTION, 2_400_000),  # the orientation: 20 s
    ],
)
def test_a_header_of_megabytes_is_little_work(tag: int, kind: int, value: int, count: int) -> None:
    tags: dict[int, Tag] = {
        each: (each, LONG, [number])
        for each, number in [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    }
    tags[tag] = (tag, kind, [value] * count)
    upload = _tiff("<", bytes(64), list(tags.values()))
    before = _children_s()
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(upload, max_pixels=MANY)
    assert _children_s() - before < 4


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.parametrize("scans", [6, 60])
def test_the_scans_of_jpegs_in_it_are_bounded(scans: int) -> None:
    """5 KB of 160 strips, all of them one JPEG of 80 scans, took 9 s."""
    jpeg = encoded(Image.new("L", (64, 8), 100), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    jpeg = jpeg[:-2] + jpeg[last:-2] * (scans - jpeg.count(b"\xff\xda")) + jpeg[-2:]
    tags: list[Tag] = [(256, SHORT, [64]), (257, SHORT, [16]), (258, SHORT, [8]), (259, SHORT, [7])]
    tags += [(262, SHORT, [1]), (273, LONG, [8, 8]), (277, SHORT, [1]), (278, SHORT, [8])]
    upload = _tiff("<", jpeg + bytes(len(jpeg) % 2), [*tags, (279, LONG, [len(jpeg)] * 2)])
    if scans == 6:
        assert abs(int(np.asarray(decode(upload, max_pixels=MANY))[12, 5]) - 100) <= 1
    else:
        with pytest.raises(InvalidImage):
            decode(upload, max_pixels=MANY)
