"""Icons and cursors: the largest picture, however the directory lies about it."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from broker.errors import ClientError
from pictures import ico
from pictures.decode import ImageTooLarge, InvalidImage, decode

MANY = 1_000_000
RED, GREEN = (255, 0, 0, 255), (0, 128, 0, 255)


def _icon(*sides: int, form: str = "png", last: tuple[int, ...] = GREEN) -> bytes:
    """An icon whose largest picture is green, and the others red."""
    file = io.BytesIO()
    pictures = [Image.new("RGBA", (side, side), last if side == max(sides) else RED) for side in sides]
    pictures[-1].save(
        file,
        "ICO",
        append_images=pictures[:-1],
        sizes=[(side, side) for side in sides],
        bitmap_format=form,
    )
    return file.getvalue()


@pytest.mark.parametrize("form", ["png", "bmp"])
def test_the_largest_picture_is_taken(form: str) -> None:
    image = decode(_icon(16, 32, 48, form=form), max_pixels=MANY)
    assert (image.size, image.mode) == ((48, 48), "RGB")
    assert image.getpixel((24, 24)) == GREEN[:3]


@pytest.mark.parametrize("form", ["png", "bmp"])
def test_transparency_becomes_white(form: str) -> None:
    image = decode(_icon(16, form=form, last=(0, 0, 0, 0)), max_pixels=MANY)
    assert image.getpixel((8, 8)) == (255, 255, 255)


def test_of_two_as_large_the_one_of_more_colours_is_taken() -> None:
    def bitmap(bits: int, palette: bytes, pixels: bytes) -> bytes:
        return struct.pack("<IiiHHIIiiII", 40, 1, 2, 1, bits, 0, 0, 0, 0, 0, 0) + palette + pixels + bytes(4)

    plain = bitmap(1, bytes((0, 0, 255, 0)) * 2, bytes(4))
    deep = bitmap(32, b"", bytes((0, 128, 0, 255)))
    for first, second in ((plain, deep), (deep, plain)):
        entries = b"".join(
            struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 0, len(data), 6 + 32 + at)
            for data, at in ((first, 0), (second, len(first)))
        )
        upload = struct.pack("<HHH", 0, 1, 2) + entries + first + second
        assert decode(upload, max_pixels=MANY).convert("RGB").getpixel((0, 0)) == GREEN[:3]


def test_a_cursor_is_read_like_an_icon() -> None:
    cursor = bytearray(_icon(32, form="bmp"))
    cursor[2] = 2
    cursor[10:14] = struct.pack("<HH", 7, 9)  # the tip's place
    assert decode(bytes(cursor), max_pixels=MANY).getpixel((16, 16)) == GREEN[:3]


@pytest.mark.parametrize("form", ["png", "bmp"])
def test_the_bound_on_pixels_is_on_the_picture_and_not_on_the_directory(form: str) -> None:
    icon = bytearray(_icon(200, form=form))
    icon[6] = icon[7] = 1
    assert decode(bytes(icon), max_pixels=40_000).size == (200, 200)
    with pytest.raises(ImageTooLarge):
        decode(bytes(icon), max_pixels=39_999)


def test_a_bitmap_of_gigapixels_is_refused_before_it_is_decoded() -> None:
    icon = bytearray(_icon(32, form="bmp"))
    at = icon.index(struct.pack("<I", 40), 22)
    icon[at + 4 : at + 12] = struct.pack("<ii", 60_000, 120_000)
    with pytest.raises(ImageTooLarge):
        decode(bytes(icon), max_pixels=MANY)


@pytest.mark.parametrize(
    "upload",
    [
        b"\0\0\1\0\0\0" + bytes(40),
        b"\0\0\1\0\1\0" + bytes(40),
        _icon(32)[:60],
        _icon(32, form="bmp")[:90],
    ],
)
def test_a_broken_icon_is_refused(upload: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(upload, max_pixels=MANY)


@pytest.mark.slow
@given(data=st.data(), form=st.sampled_from(["png", "bmp"]))
def test_a_damaged_icon_is_answered_or_refused(data: st.DataObject, form: str) -> None:
    icon = bytearray(_icon(16, 8, form=form))
    for _ in range(data.draw(st.integers(1, 6))):
        icon[data.draw(st.integers(0, len(icon) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = np.asarray(decode(bytes(icon), max_pixels=MANY))
    except ClientError:
        return
    assert pixels.size > 0


def test_what_is_no_icon_is_none() -> None:
    assert ico.largest(b"\x89PNG\r\n\x1a\n" + bytes(30)) is None
