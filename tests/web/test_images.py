"""Decoding and fitting: every mode, every format that is taken, and the refusal of everything else."""

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from broker.errors import ClientError
from broker.messages import Fit, InputSpec
from tests.e2e.hostile_cases import painted_over
from web import images, scans
from web.images import ImageTooLarge, InvalidImage, UnsupportedFormat, decode, fit, prepare

MANY = 10_000_000
RED = (250, 10, 20)


def _bytes(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def _spec(fit_: Fit, *, width: int = 6, height: int = 4, channels: int = 3) -> InputSpec:
    return InputSpec(width, height, channels, fit_)


def _at(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(int(value) for value in np.asarray(image.convert("RGB"))[y, x])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_that_is_taken(kind: str) -> None:
    decoded = decode(_bytes(Image.new("RGB", (9, 7), RED), kind), max_pixels=MANY)
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
    decoded = decode(_bytes(image), max_pixels=MANY)
    assert decoded.mode in ("L", "RGB")
    if expected is not None:
        assert _at(decoded, 2, 2) == expected


def test_cmyk_and_a_transparent_palette() -> None:
    cmyk = decode(_bytes(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "JPEG"), max_pixels=MANY)
    assert max(_at(cmyk, 1, 1)) < 40
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    decoded = decode(_bytes(palette, transparency=0), max_pixels=MANY)
    assert _at(decoded, 1, 1) == (255, 255, 255)


def test_floating_point_pixels_are_scaled_by_their_range() -> None:
    ramp = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    decoded = np.asarray(decode(_bytes(ramp, "TIFF"), max_pixels=MANY))
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
        _bytes(stored, "PNG", exif=exif), _spec(Fit.STRETCH, width=8, height=6), max_pixels=MANY
    )
    assert prepared.original_size == (8, 6)
    assert np.array_equal(prepared.pixels, np.asarray(upright))


def test_an_orientation_that_can_not_be_read_is_passed_over() -> None:
    picture = Image.new("RGB", (8, 6), RED)
    exif = (
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00\x0f\x01"
    )
    assert decode(_bytes(picture, "JPEG", exif=exif), max_pixels=MANY).size in ((8, 6), (6, 8))


@pytest.mark.parametrize("error", [struct.error("unpack"), ValueError("tag"), OSError("offset")])
def test_a_picture_is_sound_whatever_is_written_about_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: Image.Image) -> Image.Image:
        raise error

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    assert decode(_bytes(Image.new("RGB", (8, 6), RED)), max_pixels=MANY).size == (8, 6)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animated = _bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert _at(decode(animated, max_pixels=MANY), 1, 1) == (255, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20000, 1)])
@pytest.mark.parametrize("how", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_any_size_fits(size: tuple[int, int], how: Fit) -> None:
    spec = _spec(how)
    pixels = prepare(_bytes(Image.new("RGB", size, RED)), spec, max_pixels=MANY).pixels
    assert pixels.shape == spec.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def test_the_bound_on_pixels_is_judged_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    upload = _bytes(Image.new("1", (3000, 2000)))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("pixels were decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageTooLarge, match="3000 x 2000 pixels; at most 5999999"):
        decode(upload, max_pixels=5_999_999)


def test_exactly_the_bound_is_taken() -> None:
    assert decode(_bytes(Image.new("L", (30, 20))), max_pixels=600).size == (30, 20)


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_short_is_broken_not_unknown(kind: str, keep: float) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    upload = _bytes(Image.fromarray(noise), kind)
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
        b"\x00\x00\x00\x18ftypheic....",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"8BPS\x00\x01",
        _bytes(Image.new("RGB", (3, 3)), "PPM"),
    ],
)
def test_a_format_that_is_not_taken_is_named_as_such(upload: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG"):
        decode(upload, max_pixels=MANY)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
def test_a_damaged_picture_is_decoded_or_refused_never_more(data: st.DataObject, kind: str) -> None:
    noise = np.random.default_rng(4).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    upload = bytearray(_bytes(Image.fromarray(noise), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        upload[data.draw(st.integers(0, len(upload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ClientError):  # anything else fails the test
        prepare(bytes(upload), _spec(Fit.STRETCH), max_pixels=MANY)


def test_stretch_takes_all_crop_the_middle_pad_the_whole_with_the_border_s_colour() -> None:
    picture = Image.new("RGB", (30, 10), "blue")
    picture.paste((255, 255, 255), (10, 0, 20, 10))
    square = {"width": 12, "height": 12}
    stretched = fit(picture, _spec(Fit.STRETCH, **square))
    assert stretched[6, 0].tolist() == [0, 0, 255]
    assert stretched[6, 6].tolist() == [255, 255, 255]
    cropped = fit(picture, _spec(Fit.CROP, **square))
    assert (cropped > 230).all()
    padded = fit(picture, _spec(Fit.PAD, **square))
    assert padded[0, 6].tolist() == [0, 0, 255]
    assert padded[6, 6].tolist() == [255, 255, 255]


@pytest.mark.parametrize("size", [(120, 75), (75, 120), (61, 61), (40, 200), (300, 41), (10, 7)])
def test_crop_with_resize_is_the_centre_of_the_picture_with_its_short_side_resized(
    size: tuple[int, int],
) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    # torchvision.transforms.functional: resize and center_crop.
    after = (40, int(40 * size[1] / size[0])) if size[0] <= size[1] else (int(40 * size[0] / size[1]), 40)
    whole = noise.resize(after, Image.Resampling.BICUBIC)
    left, top = (round((side - kept) / 2) for side, kept in zip(after, (36, 32), strict=True))
    expected = np.asarray(whole.crop((left, top, left + 36, top + 32)), int)
    found = fit(noise, InputSpec(36, 32, 3, Fit.CROP, resize=40)).astype(int)
    # Pillow rounds a little otherwise in a box: 0.2 on average at one of these sizes, 0 at the others.
    assert np.abs(found - expected).mean() < 0.5
    assert np.abs(found - expected).max() <= 8


def test_a_long_thin_picture_is_cropped_without_being_made_whole() -> None:
    thin = Image.new("L", (images.MAX_SIDE, 1), 77)
    found = fit(thin, InputSpec(224, 224, 1, Fit.CROP, resize=255))  # 4 gigapixels, if it were
    assert (found == 77).all()


def test_a_jpeg_is_not_decoded_smaller_than_the_resize_before_the_crop() -> None:
    upload = _bytes(_scene((1000, 520)), "JPEG", quality=90)
    spec = InputSpec(224, 224, 3, Fit.CROP, resize=300)
    assert images._needed_side(spec) == 300
    assert images._decode(upload, max_pixels=MANY, needed=lambda _: 300)[0].size == (1000, 520)
    smaller = prepare(upload, spec, max_pixels=MANY).pixels
    assert np.array_equal(smaller, fit(decode(upload, max_pixels=MANY), spec))


def test_stretch_is_pillow_s_bicubic() -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    expected = np.asarray(noise.resize((6, 4), Image.Resampling.BICUBIC))
    assert np.array_equal(fit(noise, _spec(Fit.STRETCH)), expected)


def test_a_picture_that_fits_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(fit(Image.fromarray(pixels), _spec(Fit.STRETCH)), pixels)


def test_pillow_s_own_bound_does_not_speak_first() -> None:
    assert Image.MAX_IMAGE_PIXELS is None


def _scene(size: tuple[int, int]) -> Image.Image:
    """Smooth light and a few hard edges, as photos have."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]]
    waves = 128 + 60 * np.sin(across / 97) + 60 * np.cos(down / 53)
    pixels = np.stack([waves, 255 - waves, np.full_like(waves, 90)], axis=2)
    pixels[size[1] // 3 : size[1] // 2, size[0] // 4 : size[0] // 2] = RED
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((1280, 720), (320, 180)),
        ((1440, 1296), (180, 162)),
        ((300, 200), (300, 200)),
        ((1000, 170), (1000, 170)),
    ],
)
def test_a_jpeg_larger_than_the_model_needs_is_decoded_smaller(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    upload = _bytes(_scene(size), "JPEG", quality=90)
    image, original_size = images._decode(upload, max_pixels=MANY * 2, needed=lambda _: 160)
    assert image.size == decoded
    assert original_size == size


@pytest.mark.parametrize("fit_", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_decoded_smaller_it_is_the_same_picture(fit_: Fit) -> None:
    spec = _spec(fit_, width=96, height=80)
    upload = _bytes(_scene((1280, 720)), "JPEG", quality=90)
    smaller = prepare(upload, spec, max_pixels=MANY).pixels.astype(int)
    whole = fit(decode(upload, max_pixels=MANY), spec).astype(int)
    assert np.abs(smaller - whole).mean() < 1
    assert np.abs(smaller - whole).max() < 48


def test_a_large_photo_on_its_side_is_told_in_the_size_that_people_see() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upload = _bytes(_scene((1280, 720)), "JPEG", exif=exif)
    prepared = prepare(upload, _spec(Fit.STRETCH, width=32, height=32), max_pixels=MANY)
    assert prepared.original_size == (720, 1280)
    # Turned clockwise, the red box stands in columns 16 to 21 and rows 8 to 16 of 32.
    assert np.abs(prepared.pixels[10:14, 17:20].astype(int) - RED).max() < 12


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


@pytest.mark.parametrize("compression", [2, 3, 4])
def test_fax_codings_are_refused_before_their_pixels_are_decoded(
    compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(UnsupportedFormat, match="send it as PNG"):
        decode(_tiff(8, 60_000, compression), max_pixels=MANY)


def test_a_side_is_bounded_too() -> None:
    assert decode(_bytes(Image.new("L", (images.MAX_SIDE, 1))), max_pixels=MANY).size == (images.MAX_SIDE, 1)
    with pytest.raises(ImageTooLarge, match="65535 a side"):
        decode(_bytes(Image.new("L", (images.MAX_SIDE + 1, 1))), max_pixels=MANY)


@pytest.mark.parametrize(("more", "max_pixels"), [(200, MANY), (12, 4000)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(
    more: int, max_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(InvalidImage, match="too many scans"):
        decode(painted_over(60, more), max_pixels=max_pixels)


@pytest.mark.parametrize("more", [0, 8])
def test_a_progressive_jpeg_is_sound_whatever_comes_within_and_after_it(more: int) -> None:
    jpeg = painted_over(60, more)
    thumbnail = b"\xff\xe1" + (2 + 600).to_bytes(2) + b"\xff\xda" * 300
    film = b"\xff\xda" * 5000  # what a phone's moving photo has after its picture
    assert decode(jpeg[:2] + thumbnail + jpeg[2:] + film, max_pixels=4000).size == (60, 60)


@pytest.mark.parametrize(
    "hidden", [b"\xff\x02\xff\xff", b"\xff\xd0", b"\xff\xff", b"\xff\x00\xff\x01", b"\xff\xfe\x00\x00"]
)
def test_no_other_bytes_hide_a_scan(hidden: bytes) -> None:
    jpeg = painted_over(60, 0)
    last = jpeg.rindex(b"\xff\xda")
    many = jpeg[:last] + (hidden + jpeg[last:-2]) * 200 + jpeg[-2:]
    assert scans.too_many(many, pixels=3600, max_pixels=MANY)


def test_a_jpeg_of_nothing_but_markers_is_not_read_to_its_end() -> None:
    assert scans.too_many(b"\xff\xd8" + b"\xff\xfe\x00\x02" * 10_000, pixels=1, max_pixels=MANY)
    assert not scans.too_many(b"\xff\xd8", pixels=0, max_pixels=MANY)


@pytest.mark.parametrize("kind", ["MPO", "TIFF"])
def test_what_holds_a_jpeg_is_no_way_around_it(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    jpeg = painted_over(60, 400)
    other = _bytes(Image.new("L", (60, 60)), "JPEG")
    if kind == "MPO":
        index = _bytes(
            Image.new("L", (60, 60)), "MPO", save_all=True, append_images=[Image.new("L", (60, 60))]
        )
        at = index.index(b"\xff\xe2")
        segment = index[at : at + 2 + int.from_bytes(index[at + 2 : at + 4])]
        upload = jpeg[:2] + segment + jpeg[2:] + other
    else:
        upload = _tiff_of(jpeg, side=60)
    with pytest.raises(InvalidImage):
        decode(upload, max_pixels=MANY)
    capfd.readouterr()  # libtiff, whose own bound is a hundred, says so


def _tiff_of(jpeg: bytes, *, side: int) -> bytes:
    """A TIFF of one strip, which is a JPEG."""
    start = 8 + 2 + 12 * 9 + 4
    tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 7), (262, 3, 1), (273, 4, start)]
    tags += [(277, 3, 1), (278, 4, side), (279, 4, len(jpeg))]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + jpeg
