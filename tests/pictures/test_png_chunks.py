"""A PNG's extras are no reason to refuse it, and what it needs is kept."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pictures import png_chunks
from pictures.decode import InvalidImage, decode
from tests.support.pictures import encoded

PIXELS = np.random.default_rng(5).integers(0, 255, (9, 7, 3), dtype=np.uint8)
PLAIN = encoded(Image.fromarray(PIXELS))


def _with(kind: bytes, data: bytes, *, crc: int | None = None, at: int = 33) -> bytes:
    """The picture with one chunk more, after its header unless told otherwise."""
    total = zlib.crc32(kind + data) if crc is None else crc
    return PLAIN[:at] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", total) + PLAIN[at:]


BIG = zlib.compress(b"x" * 2_000_000)


@pytest.mark.parametrize(
    "upload",
    [
        _with(b"zTXt", b"Comment\0\0" + BIG),
        _with(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
        _with(b"tEXt", b"x" * 3_000_000),
        _with(b"iCCP", b"p\0\0" + BIG),
        _with(b"iCCP", b"p\0\7" + BIG[:50]),
        _with(b"iCCP", b""),
        _with(b"pHYs", b"\0"),
        _with(b"cHRM", b"\0" * 3),
        _with(b"tEXt", b"x", crc=1),
        _with(b"eXIf", b"II*\0", crc=1),
        _with(b"acTL", b"\0" * 8),
        _with(b"fcTL", b"\0"),
        _with(b"zTXt", b"Comment\0\0" + BIG, at=len(PLAIN) - 12),
        PLAIN[:-12],
        PLAIN[:-6],
    ],
)
def test_the_pixels_are_what_counts(upload: bytes) -> None:
    assert np.array_equal(np.asarray(decode(upload, max_pixels=10_000)), PIXELS)


def test_a_usual_picture_is_not_copied() -> None:
    assert png_chunks.without_extras(PLAIN) is PLAIN
    with_time = _with(b"tIME", b"\0" * 7)
    assert png_chunks.without_extras(with_time) is with_time


@pytest.mark.slow
def test_text_by_the_thousand_is_passed_over() -> None:
    words = PngInfo()
    for _ in range(100):
        words.add_text("k", "x" * 900_000, zip=True)
    upload = encoded(Image.fromarray(PIXELS), pnginfo=words)
    assert np.array_equal(np.asarray(decode(upload, max_pixels=10_000)), PIXELS)


def test_what_is_needed_is_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = encoded(Image.fromarray(PIXELS), exif=exif, dpi=(9, 9))
    assert decode(upload, max_pixels=10_000).size == (9, 7)


@pytest.mark.parametrize("cut", [20, 60, len(PLAIN) - 60])
def test_missing_pixels_are_still_a_broken_picture(cut: int) -> None:
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(PLAIN[:cut], max_pixels=10_000)


def test_of_many_colour_profiles_the_first_alone_is_looked_at() -> None:
    chunk = _with(b"iCCP", b"p\0\0" + zlib.compress(b"\0" * 1_000_000))[33 : 33 - len(PLAIN)]
    upload = PLAIN[:33] + chunk * 3000 + PLAIN[33:]
    assert png_chunks.without_extras(upload) == PLAIN[:33] + chunk + PLAIN[33:]


@pytest.mark.slow
def test_a_picture_of_nothing_but_chunks_is_refused() -> None:
    upload = PLAIN[:33] + (struct.pack(">I", 0) + b"teXt" + bytes(4)) * 100_001 + PLAIN[33:]
    with pytest.raises(InvalidImage):
        decode(upload, max_pixels=10_000)


def _by_hand(colour: int, row: bytes, *chunks: tuple[bytes, bytes], bits: int = 8) -> bytes:
    """Two pixels; the chunks come between the header and the pixels, which are one of them or come last."""
    pixels = (b"IDAT", zlib.compress(b"\0" + row))
    inner = chunks if b"IDAT" in dict(chunks) else (*chunks, pixels)
    every = [(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0)), *inner, (b"IEND", b"")]
    return png_chunks.SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in every
    )


def _pixels(upload: bytes) -> list[list[int]]:
    pixels: list[list[int]] = np.asarray(decode(upload, max_pixels=2).convert("RGB"))[0].tolist()
    return pixels


TWO = (b"PLTE", bytes((1, 2, 3, 4, 5, 6)))


@pytest.mark.parametrize(
    ("colour", "row", "chunks"),
    [
        (0, b"\1\4", [(b"tRNS", b"\1")]),
        (0, b"\1\4", [(b"tRNS", b"\0\1\0")]),
        (0, b"\1\4", [(b"tRNS", b"")]),
        (2, bytes((1, 1, 1, 4, 4, 4)), [(b"tRNS", b"\0\1")]),
        (3, b"\0\1", [(b"PLTE", bytes((1, 1, 1, 4, 4, 4))), (b"tRNS", b"\0\0\0")]),
        (3, b"\0\1", [(b"tRNS", b"\0"), (b"PLTE", bytes((1, 1, 1, 4, 4, 4)))]),
        (4, b"\1\xff\4\xff", [(b"tRNS", b"\0\1")]),
        (6, bytes((1, 1, 1, 255, 4, 4, 4, 255)), [(b"tRNS", b"\0\1\0\1\0\1")]),
        (0, b"\1\4", [(b"IDAT", zlib.compress(b"\0\1\4")), (b"tRNS", b"\0\1")]),
    ],
)
def test_a_colour_key_that_libpng_passes_over_is_no_reason_to_refuse(
    colour: int, row: bytes, chunks: list[tuple[bytes, bytes]]
) -> None:
    assert _pixels(_by_hand(colour, row, *chunks)) == [[1] * 3, [4] * 3]


def test_a_palette_s_transparency_may_be_shorter_than_it() -> None:
    assert _pixels(_by_hand(3, b"\0\1", TWO, (b"tRNS", b"\0"))) == [[255] * 3, [4, 5, 6]]


def test_a_palette_picture_without_a_palette_is_broken() -> None:
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(_by_hand(3, b"\0\1"), max_pixels=2)
