"""A JPEG's segments: what its pixels need is kept, the first Exif data is found, thousands are refused."""

import struct
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

from pictures import jpeg_segments
from pictures.decode import InvalidImage, decode
from tests.support.pictures import encoded

MANY = 10_000_000
PIXELS = np.random.default_rng(7).integers(0, 255, (24, 40, 3), dtype=np.uint8)
PLAIN = encoded(Image.fromarray(PIXELS), "JPEG", quality=95)


def _segment(kind: int, data: bytes) -> bytes:
    return bytes((0xFF, kind)) + struct.pack(">H", len(data) + 2) + data


def _with(*segments: bytes) -> bytes:
    return PLAIN[:2] + b"".join(segments) + PLAIN[2:]


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_a_plain_jpeg_is_not_copied() -> None:
    stripped, exif = jpeg_segments.without_extras(PLAIN)
    assert stripped is PLAIN
    assert exif == b""


@pytest.mark.parametrize(
    "extras",
    [
        [_segment(0xFE, b"a comment")],
        [_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), _segment(0xED, b"Photoshop 3.0\0")],
        [_segment(0xE2, b"MPF\0" + bytes(60))],
        [_segment(0xE2, b"FPXR\0")],
        [_segment(0xE0, b"JFXX\0"), _segment(0xEF, b"x")],
        [_segment(0xE1, b"Exif\0\0" + bytes(60_000))] * 3,
        [_segment(0xFE, b""), b"\0junk\xff\xff\xff"],
    ],
)
def test_what_the_pixels_do_not_need_is_left_out(extras: list[bytes]) -> None:
    upload = _with(*extras)
    assert jpeg_segments.without_extras(upload)[0] == PLAIN
    assert np.array_equal(
        np.asarray(decode(upload, max_pixels=MANY)), np.asarray(decode(PLAIN, max_pixels=MANY))
    )


def test_the_first_exif_data_counts() -> None:
    upload = _with(_segment(0xE1, _exif(6)), _segment(0xE1, _exif(1)))
    assert jpeg_segments.without_extras(upload)[1] == _exif(6)
    assert decode(upload, max_pixels=MANY).size == (24, 40)


def test_what_the_pixels_need_is_kept() -> None:
    """Ink or light (Adobe's segment), and a profile, in pieces too."""
    cmyk = encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 200)), "JPEG")
    assert b"Adobe" in cmyk
    assert jpeg_segments.without_extras(cmyk)[0] is cmyk
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().ljust(100_000, b"\0")
    large = encoded(Image.fromarray(PIXELS), "JPEG", icc_profile=profile)
    assert large.count(b"ICC_PROFILE\0") == 2
    assert jpeg_segments.without_extras(large)[0] is large


def test_a_phone_s_second_picture_stays_behind_the_first() -> None:
    second = Image.new("RGB", (8, 8))
    both = encoded(Image.fromarray(PIXELS), "MPO", save_all=True, append_images=[second])
    assert decode(both, max_pixels=MANY).size == (40, 24)


@pytest.mark.parametrize(
    "segments",
    [
        _segment(0xFE, b"") * 5_000_000,  # 9 s in Pillow
        _segment(0xE0, b"") * 5_000_000,
        _segment(0xE1, b"Exif\0\0" + b"x" * 65_000) * 150 + _segment(0xE1, b"Exif\0\0x") * 20_000,  # 19 s
        _segment(0xDB, bytes(65) * 1000) * 150,
        b"\xff\xd0" * 2_000_000,
        _segment(0xF0, bytes(65_000)) * 150,
        b"\xff\xd9" + _segment(0xFE, b"") * 5_000_000,  # Pillow reads on behind the end
    ],
)
def test_what_no_encoder_writes_is_refused_at_once(segments: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidImage, match="broken or cut short"):
        decode(_with(segments), max_pixels=MANY)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("fill", [b"\xff", b"\0", b"\xff\0"])
def test_megabytes_between_two_segments_are_passed_over(fill: bytes) -> None:
    begun = time.process_time()
    assert decode(_with(_segment(0xFE, b""), fill * 5_000_000), max_pixels=MANY).size == (40, 24)
    assert time.process_time() - begun < 3


@pytest.mark.parametrize("count", [4000, 5000])
def test_some_thousand_segments_are_the_most(count: int) -> None:
    upload = _with(_segment(0xFE, b"x") * count)
    if count < 4096:
        assert decode(upload, max_pixels=MANY).size == (40, 24)
    else:
        with pytest.raises(InvalidImage):
            decode(upload, max_pixels=MANY)


@pytest.mark.parametrize("looked_at", [b"", b"\xff\xd9", _segment(0xDB, bytes(65)), _segment(0xFE, b"x")])
@pytest.mark.parametrize("rest", [b"", b"\0rest", b"\xff"])
def test_of_one_without_a_scan_nothing_is_kept_that_was_not_looked_at(looked_at: bytes, rest: bytes) -> None:
    kept = b"" if looked_at.startswith(b"\xff\xfe") else looked_at
    assert jpeg_segments.without_extras(b"\xff\xd8" + looked_at + rest) == (b"\xff\xd8" + kept, b"")


@pytest.mark.parametrize("cut", [3, 20, 200])
def test_one_cut_short_or_without_a_scan_is_broken(cut: int) -> None:
    for upload in (PLAIN[:cut], PLAIN[:cut] + b"\xff\xd9" + b"\xff\xfe\0\2" * 1000):
        with pytest.raises(InvalidImage):
            decode(upload, max_pixels=MANY)
