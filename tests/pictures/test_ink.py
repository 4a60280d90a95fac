"""Fit.INK: a drawing of any size, place and polarity becomes what MNIST's digits look like."""

import io
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from broker.messages import Fit, InputSpec
from pictures.decode import InvalidImage
from pictures.fit import fit, prepare

SPEC: Final = InputSpec(width=28, height=28, channels=1, fit=Fit.INK)
SEVEN: Final = ((0.0, 0.0), (0.6, 0.0), (0.2, 1.0))


def seven(
    size: tuple[int, int] = (200, 200),
    *,
    tall: int = 120,
    at: tuple[int, int] = (60, 40),
    paper: str = "white",
    ink: str = "black",
    stroke: float = 0.1,
) -> Image.Image:
    """A 7 of `tall` pixels whose upper left corner is `at`."""
    image = Image.new("RGB", size, paper)
    points = [(at[0] + x * tall, at[1] + y * tall) for x, y in SEVEN]
    ImageDraw.Draw(image).line(points, fill=ink, width=max(1, round(stroke * tall)), joint="curve")
    return image


def fitted(image: Image.Image) -> NDArray[np.uint8]:
    pixels = fit(image, SPEC)
    assert pixels.shape == (28, 28, 1)
    assert pixels.dtype == np.uint8
    return pixels[..., 0]


def box(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    rows, columns = np.nonzero(pixels > 64)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def alike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The correlation of two fitted pictures, give or take a pixel of place: 1 for the same."""
    moved = [np.roll(one, (down, across), (0, 1)) for down in (-1, 0, 1) for across in (-1, 0, 1)]
    return max(float(np.corrcoef(copy.ravel(), other.ravel())[0, 1]) for copy in moved)


def test_seven_fills_20_of_28_and_is_light_on_black() -> None:
    pixels = fitted(seven())
    assert box(pixels)[0] == 20
    assert pixels.max() == 255
    assert np.median(pixels) == 0


@pytest.mark.parametrize(
    ("paper", "ink"),
    [
        ("black", "white"),
        ("#787878", "#101010"),
        ("#787878", "white"),
        ("white", "yellow"),
        ("#e8e4da", "#2030a0"),
        ("white", "#c0c0c0"),
    ],
)
def test_paper_and_ink_of_any_shade(paper: str, ink: str) -> None:
    assert alike(fitted(seven(paper=paper, ink=ink)), fitted(seven())) > 0.999


@pytest.mark.parametrize(
    ("width", "height", "tall"),
    [(20, 20, 16), (28, 28, 20), (40, 60, 30), (640, 480, 300), (1280, 720, 200), (4000, 3000, 1500)],
)
def test_pictures_of_any_size(width: int, height: int, tall: int) -> None:
    image = seven((width, height), tall=tall, at=(width // 2 - tall // 4, (height - tall) // 2))
    assert alike(fitted(image), fitted(seven())) > 0.85


def test_place_does_not_matter() -> None:
    middle = fitted(seven())
    assert np.array_equal(middle, fitted(seven(at=(10, 70))))
    far_off = seven((1600, 900), tall=240, at=(1400, 20))
    assert alike(fitted(far_off), middle) > 0.85


@pytest.mark.parametrize("grey", [0, 1, 90, 127, 128, 200, 255])
def test_blank_page_is_refused(grey: int) -> None:
    with pytest.raises(InvalidImage, match="Nothing is drawn"):
        fitted(Image.new("L", (300, 200), grey))


def test_noise_of_an_empty_page_is_refused() -> None:
    noise = np.random.default_rng(0).integers(236, 244, (200, 300)).astype(np.uint8)
    with pytest.raises(InvalidImage, match="Nothing is drawn"):
        fitted(Image.fromarray(noise))


@pytest.mark.parametrize("stroke", [0.02, 0.1, 0.25])
def test_centred_by_mass_whatever_the_pen(stroke: float) -> None:
    pixels = fitted(seven(stroke=stroke)).astype(np.float64)
    y, x = (float(pixels.sum(axis=axis) @ np.arange(28) / pixels.sum()) for axis in (1, 0))
    assert abs(y - 14) <= 0.5
    assert abs(x - 14) <= 0.5


def test_mnist_itself_stays_as_it_is() -> None:
    picture = np.zeros((28, 28), np.uint8)
    picture[4:24, 12:17] = 254
    picture[4:24, 11] = picture[4:24, 17] = 100
    assert np.abs(fitted(Image.fromarray(picture)).astype(np.int64) - picture).max() <= 1


def test_thin_pen_with_a_blot_is_bright() -> None:
    image = seven((1000, 1000), tall=600, at=(200, 200), stroke=0.02)
    ImageDraw.Draw(image).ellipse((180, 180, 220, 220), fill="black")
    pixels = fitted(image)
    assert np.median(pixels[pixels > 32]) > 160


def test_smudge_is_no_drawing() -> None:
    with pytest.raises(InvalidImage, match="Nothing is drawn"):
        fitted(seven(ink="#f3f3f3"))


@pytest.mark.parametrize("ink", ["black", "#a0a0a0"])
def test_light_from_one_side_is_not_ink(ink: str) -> None:
    page = np.asarray(seven(ink=ink), dtype=np.float64) * np.linspace(0.75, 1, 200)[:, np.newaxis]
    for lit in (page, page.transpose(1, 0, 2)):
        flat = seven() if lit is page else seven().transpose(Image.Transpose.TRANSPOSE)
        assert alike(fitted(Image.fromarray(lit.astype(np.uint8))), fitted(flat)) > 0.97


def test_specks_are_not_ink() -> None:
    dusty = seven()
    for place in ((3, 5), (190, 8), (7, 180), (150, 195)):
        dusty.putpixel(place, (0, 0, 0))
    assert alike(fitted(dusty), fitted(seven())) > 0.999


@pytest.mark.parametrize(("ink", "noise"), [("#222222", 6), ("#999999", 12)])
def test_noise_and_jpeg_do_not_move_it(ink: str, noise: float) -> None:
    page = np.asarray(seven(paper="#dddddd", ink=ink), dtype=np.float64)
    page += np.random.default_rng(0).normal(0, noise, page.shape)
    file = io.BytesIO()
    Image.fromarray(page.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=40)
    noisy = prepare(file.getvalue(), SPEC, max_pixels=10**6).pixels[..., 0]
    assert alike(noisy, fitted(seven())) > 0.95


@pytest.mark.parametrize("stroke", [0.1, 0.2])
def test_drawing_that_touches_the_border(stroke: float) -> None:
    whole = seven(stroke=stroke)
    half = round(stroke * 60)
    cut = whole.crop((60, 40 - half, 200, 162))
    assert alike(fitted(cut), fitted(whole)) > 0.95


def test_ink_all_along_one_border_is_not_paper() -> None:
    whole = Image.new("L", (180, 200), 255)
    ImageDraw.Draw(whole).line([(140, 50), (50, 50), (50, 150), (90, 150)], fill=0, width=20)
    cut = whole.crop((41, 41, 160, 160))
    assert alike(fitted(cut), fitted(whole)) > 0.99


def test_transparent_png_is_on_white() -> None:
    drawing = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    points = [(60 + x * 120, 40 + y * 120) for x, y in SEVEN]
    ImageDraw.Draw(drawing).line(points, fill="black", width=12, joint="curve")
    file = io.BytesIO()
    drawing.save(file, "PNG")
    assert np.array_equal(prepare(file.getvalue(), SPEC, max_pixels=10**6).pixels[..., 0], fitted(seven()))


def test_same_picture_same_pixels() -> None:
    assert np.array_equal(fitted(seven()), fitted(seven()))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 900)])
@pytest.mark.parametrize("pixel", [0, 255])
def test_tiny_and_narrow_pictures_are_fitted_or_refused(size: tuple[int, int], pixel: int) -> None:
    image = Image.new("L", size, 128)
    image.putpixel((0, 0), pixel)
    try:
        assert fitted(image).any()
    except InvalidImage as refusal:
        assert "Nothing is drawn" in refusal.message  # noqa: PT017 - either is right
