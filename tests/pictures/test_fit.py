"""Fitting a picture to a network's input, and decoding it no larger than that needs."""

from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from broker.messages import Decode, Fit, InputSpec, Library, Resample
from pictures.decode import MAX_SIDE, DecodedPicture, InvalidImage, Size, decode, decode_near
from pictures.fit import Part, PartCutter, PreparedPicture, fit, given, prepare
from pictures.fixed_point import joined
from tests.support.pictures import encoded

MANY = 10_000_000
RED = (250, 10, 20)


def _spec(fit_: Fit, *, width: int = 6, height: int = 4, channels: int = 3) -> InputSpec:
    return InputSpec(width, height, channels, fit_)


def _scene(size: tuple[int, int]) -> Image.Image:
    """Smooth light and a few hard edges, as photos have."""
    down, across = np.mgrid[0 : size[1], 0 : size[0]]
    waves = 128 + 60 * np.sin(across / 97) + 60 * np.cos(down / 53)
    pixels = np.stack([waves, 255 - waves, np.full_like(waves, 90)], axis=2)
    pixels[size[1] // 3 : size[1] // 2, size[0] // 4 : size[0] // 2] = RED
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20000, 1)])
@pytest.mark.parametrize("how", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_any_size_fits(size: tuple[int, int], how: Fit) -> None:
    spec = _spec(how)
    pixels = prepare(encoded(Image.new("RGB", size, RED)), spec, max_pixels=MANY).pixels
    assert pixels.shape == spec.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


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


PILLOW_S = [Resample.NEAREST, Resample.BOX, Resample.BILINEAR, Resample.BICUBIC, Resample.LANCZOS]


@pytest.mark.parametrize("kernel", PILLOW_S)
@pytest.mark.parametrize("size", [(120, 75), (75, 120), (61, 61), (40, 200), (300, 41), (10, 7)])
def test_crop_with_resize_is_the_centre_of_the_picture_with_its_short_side_resized(
    size: tuple[int, int], kernel: Resample
) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    # torchvision.transforms.functional: resize and center_crop.
    after = (40, int(40 * size[1] / size[0])) if size[0] <= size[1] else (int(40 * size[0] / size[1]), 40)
    whole = noise.resize(after, Image.Resampling[kernel.name])
    left, top = (round((side - kept) / 2) for side, kept in zip(after, (36, 32), strict=True))
    expected = np.asarray(whole.crop((left, top, left + 36, top + 32)), int)
    found = fit(noise, InputSpec(36, 32, 3, Fit.CROP, resize=40, resample=kernel)).astype(int)
    assert np.array_equal(found, expected)


def test_a_long_thin_picture_is_cropped_without_being_made_whole() -> None:
    thin = Image.new("L", (MAX_SIDE, 1), 77)
    found = fit(thin, InputSpec(224, 224, 1, Fit.CROP, resize=255))  # 4 gigapixels, if it were
    assert (found == 77).all()


def test_a_jpeg_is_not_decoded_smaller_than_the_resize_before_the_crop() -> None:
    upload = encoded(_scene((1000, 520)), "JPEG", quality=90)
    spec = InputSpec(224, 224, 3, Fit.CROP, resize=300)
    assert decode_near(upload, max_pixels=MANY, needed=Size(300)).image.size == (1000, 520)
    smaller = prepare(upload, spec, max_pixels=MANY).pixels
    assert np.array_equal(smaller, fit(decode(upload, max_pixels=MANY), spec))


@pytest.mark.parametrize("kernel", PILLOW_S)
def test_stretch_is_pillow_s_resize(kernel: Resample) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    expected = np.asarray(noise.resize((6, 4), Image.Resampling[kernel.name]))
    assert np.array_equal(fit(noise, InputSpec(6, 4, 3, Fit.STRETCH, resample=kernel)), expected)


def test_a_picture_that_fits_is_left_as_it_is() -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(fit(Image.fromarray(pixels), _spec(Fit.STRETCH)), pixels)


@pytest.mark.slow
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
    upload = encoded(_scene(size), "JPEG", quality=90)
    found = decode_near(upload, max_pixels=MANY * 2, needed=Size(160))
    assert (found.image.size, found.whole, found.factor) == (decoded, size, size[0] // decoded[0])


@pytest.mark.slow
@pytest.mark.parametrize("fit_", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_decoded_smaller_it_is_the_same_picture(fit_: Fit) -> None:
    spec = _spec(fit_, width=96, height=80)
    upload = encoded(_scene((1280, 720)), "JPEG", quality=90)
    smaller = prepare(upload, spec, max_pixels=MANY).pixels.astype(int)
    whole = fit(decode(upload, max_pixels=MANY), spec).astype(int)
    assert np.abs(smaller - whole).mean() < 1
    assert np.abs(smaller - whole).max() < 48


def test_a_large_photo_on_its_side_is_told_in_the_size_that_people_see() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    upload = encoded(_scene((1280, 720)), "JPEG", exif=exif)
    prepared = prepare(upload, _spec(Fit.STRETCH, width=32, height=32), max_pixels=MANY)
    assert prepared.original_size == (720, 1280)
    # Turned clockwise, the red box stands in columns 16 to 21 and rows 8 to 16 of 32.
    assert np.abs(prepared.pixels[10:14, 17:20].astype(int) - RED).max() < 12


def _cut(upload: bytes, *parts: Part, size: tuple[int, int]) -> list[PreparedPicture]:
    cutter = PartCutter(upload, parts, original_size=size, max_pixels=MANY)
    return [cutter.cut(part) for part in parts]


_BOX = (31, 17, 90, 71)


@pytest.mark.parametrize("library", [Library.PILLOW, Library.OPENCV])
@pytest.mark.parametrize("how", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_a_part_is_fitted_as_a_picture_of_its_own(how: Fit, library: Library) -> None:
    photo = _scene((200, 120))
    spec = InputSpec(24, 32, 3, how, library=library)
    (part,) = _cut(encoded(photo), Part(_BOX, spec), size=photo.size)
    left, top, width, height = _BOX
    alone = prepare(encoded(photo.crop((left, top, left + width, top + height))), spec, max_pixels=10**6)
    assert part.original_size == (width, height)
    assert np.array_equal(part.pixels, alone.pixels)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_part_of_a_jpeg_is_cut_from_one_decoded_smaller(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = _scene((1999, 1501))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = {
        1: None,
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    turn = turned[orientation]
    stored = photo.transpose(turn) if turn is not None else photo
    upload = encoded(stored, "JPEG", quality=95, exif=exif)
    decoded = _spied(monkeypatch)
    box = (301, 203, 1201, 1101)
    fast, exact = (InputSpec(96, 96, 3, Fit.STRETCH, decode=kind) for kind in Decode)
    (near,) = _cut(upload, Part(box, fast), size=photo.size)
    (far,) = _cut(upload, Part(box, exact), size=photo.size)
    assert decoded[0][0] < decoded[1][0] // 3
    difference = np.abs(near.pixels.astype(int) - far.pixels)
    assert difference.mean() < 1.5
    # A shift by one pixel of the smaller picture would be seen.
    assert np.abs(np.roll(near.pixels, 1, axis=1).astype(int) - far.pixels).mean() > 2 * difference.mean()


def test_parts_of_any_size_and_place_come_in_their_order() -> None:
    photo = _scene((64, 48))
    specs = [InputSpec(8, 8, 1, Fit.STRETCH), InputSpec(4, 6, 3, Fit.CROP, decode=Decode.EXACT)]
    boxes = [(0, 0, 1, 1), (63, 47, 1, 1), (0, 0, 64, 48), (5, 0, 1, 48)]
    wanted = [Part(box, spec) for box in boxes for spec in specs]
    parts = _cut(encoded(photo, "JPEG"), *wanted, size=photo.size)
    for part, asked in zip(parts, wanted, strict=True):
        assert (part.pixels.shape, part.original_size) == (asked.spec.shape, asked.box[2:])


@pytest.mark.slow
def test_the_smallest_part_decides_how_large_a_jpeg_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = _spied(monkeypatch)
    photo = _scene((1600, 1600))
    spec = InputSpec(100, 100, 3, Fit.STRETCH)
    boxes = [(0, 0, 1600, 1600), (100, 100, 200, 200)]
    _cut(encoded(photo, "JPEG"), *(Part(box, spec) for box in boxes), size=photo.size)
    assert decoded == [(1600, 1600)]
    _cut(encoded(photo, "JPEG"), Part(boxes[0], spec), size=photo.size)
    assert decoded[1:] == [(200, 200)]


def test_a_part_has_the_dct_of_its_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = _spied(monkeypatch)
    photo = _scene((64, 48))
    upload = encoded(photo, "JPEG")
    specs = [
        InputSpec(64, 48, 3, Fit.STRETCH, decode=Decode.EXACT, library=library, resample=Resample.NEAREST)
        for library in (Library.TENSORFLOW, Library.PILLOW, Library.TENSORFLOW)
    ]
    parts = _cut(upload, *(Part((0, 0, 64, 48), spec) for spec in specs), size=photo.size)
    assert len(decoded) == 2
    for part, spec in zip(parts, specs, strict=True):
        assert np.array_equal(part.pixels, prepare(upload, spec, max_pixels=MANY).pixels)


def test_a_part_at_the_edge_has_no_pixels_from_beyond_it() -> None:
    photo = _scene((803, 601))
    upload = encoded(photo, "JPEG", quality=95)
    spec = InputSpec(24, 24, 3, Fit.STRETCH)
    (part,) = _cut(upload, Part((403, 201, 400, 400), spec), size=photo.size)
    whole = fit(photo.crop((403, 201, 803, 601)), spec)
    assert np.abs(part.pixels[-1].astype(int) - whole[-1]).max() < 12
    assert np.abs(part.pixels[:, -1].astype(int) - whole[:, -1]).max() < 12


@pytest.mark.parametrize("library", list(Library))
@pytest.mark.parametrize("how", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_a_part_of_one_pixel_fits(how: Fit, library: Library) -> None:
    photo = _scene((40, 30))
    spec = InputSpec(8, 3, 3, how, library=library, resample=Resample.NEAREST)
    (part,) = _cut(encoded(photo), Part((39, 29, 1, 1), spec), size=photo.size)
    assert part.pixels.shape == (3, 8, 3)


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes in which pictures are decoded from now on."""
    decoded: list[tuple[int, int]] = []

    def spied(*arguments: Any, **options: Any) -> DecodedPicture:  # noqa: ANN401
        decoded.append((found := decode_near(*arguments, **options)).image.size)
        return found

    monkeypatch.setattr("pictures.fit.decode_near", spied)
    return decoded


def test_a_part_on_which_nothing_is_drawn_is_refused() -> None:
    photo = Image.new("L", (100, 50), 255)
    photo.paste(0, (60, 10, 70, 40))
    spec = InputSpec(28, 28, 1, Fit.INK)
    empty, drawn = Part((0, 0, 50, 50), spec), Part((50, 0, 50, 50), spec)
    cutter = PartCutter(encoded(photo), [empty, drawn], original_size=photo.size, max_pixels=MANY)
    with pytest.raises(InvalidImage):
        cutter.cut(empty)
    assert cutter.cut(drawn).pixels.max() > 0


def test_pixels_that_fit_already_are_taken_as_they_are() -> None:
    spec = InputSpec(width=6, height=4, channels=3, fit=Fit.CROP, resize=8)
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    prepared = given(pixels[:, ::-1], spec)
    assert (prepared.pixels == pixels[:, ::-1]).all()
    assert prepared.pixels.flags.c_contiguous
    assert prepared.original_size == (6, 4)


def test_given_pixels_are_whole_numbers_where_fractions_are_kept() -> None:
    spec = InputSpec(6, 4, 1, Fit.STRETCH, resample=Resample.BILINEAR, library=Library.TENSORFLOW)
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6, 1)
    assert (joined(given(pixels, spec).pixels) == pixels).all()


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 6, 1), (4, 6), (1, 4, 6, 3)])
def test_given_pixels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImage, match=r"takes \[4, 6, 3\] \(height, width, channels\)"):
        given(np.zeros(shape, np.uint8), _spec(Fit.CROP))
