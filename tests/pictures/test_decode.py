"""Decoding and fitting: every mode, every format that is taken, and the refusal of everything else."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from broker.errors import ClientError
from broker.messages import Fit, InputSpec
from pictures.decode import MAX_SIDE, ImageTooLarge, InvalidImage, UnsupportedFormat, decode
from pictures.fit import prepare
from tests.support.pictures import encoded

MANY = 10_000_000
RED = (250, 10, 20)


def _spec(fit_: Fit, *, width: int = 6, height: int = 4, channels: int = 3) -> InputSpec:
    return InputSpec(width, height, channels, fit_)


def _at(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(image.convert("RGB"))[y, x])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_that_is_taken(kind: str) -> None:
    decoded = decode(encoded(Image.new("RGB", (9, 7), RED), kind), max_pixels=MANY)
    assert decoded.size == (9, 7)
    assert np.abs(np.subtract(_at(decoded, 4, 3), RED)).max() <= 8


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (255, 255, 255)),
        ("P", 3, None),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 40, (40, 40, 40)),
    ],
)
def test_any_mode_becomes_grey_or_rgb(mode: str, colour: object, expected: tuple[int, ...] | None) -> None:
    image = Image.new(mode, (5, 4), colour)  # type: ignore[arg-type]
    decoded = decode(encoded(image), max_pixels=MANY)
    assert decoded.mode in ("L", "RGB")
    if expected is not None:
        assert _at(decoded, 2, 2) == expected


def test_cmyk_and_a_transparent_palette() -> None:
    cmyk = decode(encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "JPEG"), max_pixels=MANY)
    assert max(_at(cmyk, 1, 1)) < 40
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    decoded = decode(encoded(palette, transparency=0), max_pixels=MANY)
    assert _at(decoded, 1, 1) == (255, 255, 255)


def test_floating_point_pixels_are_scaled_by_their_range() -> None:
    ramp = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    decoded = np.asarray(decode(encoded(ramp, "TIFF"), max_pixels=MANY))
    assert decoded.tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation: int) -> None:
    upright = Image.new("RGB", (8, 6), "black")
    upright.paste((255, 255, 255), (0, 0, 4, 3))
    # How a camera stores an upright scene under each orientation: the inverse of what a viewer does.
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    prepared = prepare(
        encoded(stored, "PNG", exif=exif), _spec(Fit.STRETCH, width=8, height=6), max_pixels=MANY
    )
    assert prepared.original_size == (8, 6)
    assert np.array_equal(prepared.pixels, np.asarray(upright))


def test_an_orientation_that_can_not_be_read_is_passed_over() -> None:
    picture = Image.new("RGB", (8, 6), RED)
    exif = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x0f\x01"
    )
    assert decode(encoded(picture, "JPEG", exif=exif), max_pixels=MANY).size in ((8, 6), (6, 8))


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert _at(decode(animated, max_pixels=MANY), 1, 1) == (255, 0, 0)


def test_the_bound_on_pixels_is_judged_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = encoded(Image.new("1", (3000, 2000)))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageTooLarge, match="3000 x 2000 pixels; at most 5999999"):
        decode(upload, max_pixels=5_999_999)


def test_exactly_the_bound_is_taken() -> None:
    assert decode(encoded(Image.new("L", (30, 20))), max_pixels=600).size == (30, 20)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_short_is_broken_not_unknown(kind: str, keep: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    upload = encoded(Image.fromarray(noise), kind)
    with pytest.raises(InvalidImage, match=r"broken|could not be decoded"):
        decode(upload[: int(len(upload) * keep)], max_pixels=MANY)


@pytest.mark.parametrize("upload", [b"", b"x", b"hello world, no picture", b"\x00" * 500, b"GET / HTTP/1.1"])
def test_what_is_no_picture_is_refused(upload: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode(upload, max_pixels=MANY)


@pytest.mark.parametrize(
    "upload",
    [
        b"%PDF-1.7 ...",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b'<?xml version="1.0"?><svg/>',
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"8BPS\x00\x01",
        encoded(Image.new("RGB", (3, 3)), "PPM"),
    ],
)
def test_a_format_that_is_not_taken_is_named_as_such(upload: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG"):
        decode(upload, max_pixels=MANY)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
def test_a_damaged_picture_is_decoded_or_refused_never_more(data: st.DataObject, kind: str) -> None:
    noise = np.random.default_rng(4).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    upload = bytearray(encoded(Image.fromarray(noise), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        upload[data.draw(st.integers(0, len(upload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ClientError):  # anything else fails the test
        prepare(bytes(upload), _spec(Fit.STRETCH), max_pixels=MANY)


def test_pillow_s_own_bound_does_not_speak_first() -> None:
    assert Image.MAX_IMAGE_PIXELS is None


def _tiff(width: int, height: int, compression: int, data: bytes = b"\x00" * 8) -> bytes:
    """A TIFF of one strip, one bit a pixel, made by hand: Pillow writes no broken ones."""
    tags = [
        (256, width),
        (257, height),
        (258, 1),
        (259, compression),
        (262, 0),
        (273, 8),
        (277, 1),
        (278, height),
    ]
    tags.append((279, len(data)))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + b"\0\0\0\0"


@pytest.mark.slow
@pytest.mark.parametrize("compression", [2, 3, 4])
def test_fax_codings_are_refused(compression: int) -> None:
    with pytest.raises(UnsupportedFormat, match="send it as PNG"):
        decode(_tiff(8, 60_000, compression), max_pixels=MANY)


def test_a_side_is_bounded_too() -> None:
    assert decode(encoded(Image.new("L", (MAX_SIDE, 1))), max_pixels=MANY).size == (MAX_SIDE, 1)
    with pytest.raises(ImageTooLarge, match="65535 a side"):
        decode(encoded(Image.new("L", (MAX_SIDE + 1, 1))), max_pixels=MANY)
