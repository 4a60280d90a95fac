"""The annotated picture: boxes where they belong, upright, legible, and in bounded memory."""

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.messages import Keypoint, Mask, Pixels, Prediction, Skeleton, TaskResult
from pictures import annotate, decode, rle
from pictures.annotate import LONGEST, SHORTEST, annotated, colour
from settings import PROJECT

MANY = 50_000_000
PAPER = (250, 250, 250)


def _upload(size: tuple[int, int], kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, PAPER).save(buffer, kind, **options)
    return buffer.getvalue()


def _drawn(upload: bytes, *predictions: Prediction) -> NDArray[np.int16]:
    png = annotated(upload, TaskResult(predictions), max_pixels=MANY)
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image, np.int16)


def _is(pixels: NDArray[np.int16], wanted: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((np.abs(pixels - wanted) < 3).all(axis=-1))


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "class_id", "written"),
    [
        ("dog", "16", "dog"),
        ("Bär, über Café", "n1", "Bar, uber Cafe"),
        ("熊", "n02131653", "n02131653"),
        ("Bär 熊", "n2", "n2"),
        ("熊", "熊 bär", "? bar"),
    ],
)
def test_a_label_is_written_in_letters_that_the_font_has(label: str, class_id: str, written: str) -> None:
    assert annotate._legible(label, class_id) == written
    upload, area = _upload((800, 600)), (200, 150, 20, 250)
    told, plain = (_drawn(upload, Prediction(each, class_id, 0.5, area)) for each in (label, written))
    assert _extent(~_is(told, PAPER)) == _extent(~_is(plain, PAPER))


def test_a_box_is_drawn_where_it_is_with_its_label_above() -> None:
    pixels = _drawn(_upload((800, 600)), Prediction("dog", "16", 0.87, (200, 150, 300, 250)))
    assert pixels.shape == (600, 800, 3)
    ink = _is(pixels, colour("dog"))
    left, top, right, bottom = _extent(ink)
    assert (left, right, bottom) == (200, 500, 400)
    assert 110 < top < 140  # the label stands on the box
    assert ink[300, 200:203].all()
    assert not ink[160:390, 210:490].any()  # nothing covers what is in the box


def test_a_class_has_one_colour_and_the_label_can_be_read_on_it() -> None:
    names = ("person", "bicycle", "car", "dog", "cat", "chair", "truck")
    assert len({colour(name) for name in names}) == len(names)
    for name in names:
        area = (50, 50, 300, 300)
        pixels = _drawn(_upload((600, 400)), Prediction(name, "0", 0.5, area))
        label = pixels[15:50, 52 : 52 + 60].reshape(-1, 3)
        light = (label * (0.2126, 0.7152, 0.0722)).sum(axis=1)
        assert np.ptp(light) > 60, name


@pytest.mark.slow
def test_a_label_has_room_at_the_edges_and_beside_others() -> None:
    boxes = [(0, 0, 200, 200), (0, 0, 210, 205), (700, 500, 100, 100), (790, 0, 10, 600)]
    names = ("dog", "cat", "person", "car")
    predictions = [Prediction(name, "0", 0.9, box) for name, box in zip(names, boxes, strict=True)]
    pixels = _drawn(_upload((800, 600)), *predictions)
    for name in names:
        # More than its outline: the label's paper.
        assert _is(pixels, colour(name)).sum() > 1_500, name


def test_a_turned_photo_is_drawn_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    upload = _upload((600, 400), "JPEG", exif=exif, quality=95)
    pixels = _drawn(upload, Prediction("dog", "16", 0.5, (100, 450, 200, 100)))
    assert pixels.shape == (600, 400, 3)
    left, _, right, bottom = _extent(_is(pixels, colour("dog")))
    assert (left, right, bottom) == (100, 300, 550)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_large_picture_is_drawn_small_and_its_boxes_with_it(kind: str) -> None:
    pixels = _drawn(_upload((6000, 3000), kind), Prediction("dog", "16", 0.5, (3000, 1500, 1500, 750)))
    assert pixels.shape == (1024, LONGEST, 3)
    left, _, right, bottom = _extent(_is(pixels, colour("dog")))
    assert (left, right, bottom) == pytest.approx((1024, 1536, 768), abs=1)


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (3, 65_000), (65_000, 3), (400, 20)])
def test_any_size_is_legible(size: tuple[int, int]) -> None:
    pixels = _drawn(_upload(size), Prediction("seven", "7", 0.99, (0, 0, *size)))
    assert min(pixels.shape[:2]) >= 160
    assert SHORTEST <= max(pixels.shape[:2]) <= LONGEST
    assert _is(pixels, colour("seven")).sum() > 1_000
    plain = _drawn(_upload(size), Prediction("seven", "7", 0.99))
    assert _is(plain, colour("seven"))[:16, :16].any()


def test_a_classifier_s_labels_stand_in_the_corner() -> None:
    pixels = _drawn(_upload((800, 600)), Prediction("cat", "1", 0.7), Prediction("dog", "2", 0.3))
    first, second = _extent(_is(pixels, colour("cat"))), _extent(_is(pixels, colour("dog")))
    assert first[:2] == (0, 0)
    assert second[1] >= first[3] - 1
    assert max(first[2], second[2]) < 250


def test_more_labels_than_there_is_room_for_end_at_the_edge() -> None:
    many = [Prediction(f"class {number}", str(number), 0.001) for number in range(1000)]
    assert _drawn(_upload((300, 200)), *many).shape == (320, 480, 3)


@pytest.mark.parametrize("name", ["a" * 500, "Ünïcödé ✓ 狗", "two\nlines", ""])
def test_any_label_is_drawn_within_the_picture(name: str) -> None:
    assert _drawn(_upload((300, 300)), Prediction(name, "0", 1.0, (10, 10, 50, 50))).shape == (480, 480, 3)


def test_nothing_found_gives_the_picture_itself() -> None:
    assert (_drawn(_upload((600, 400))) == PAPER).all()


def test_grey_and_transparent_pictures_are_drawn_in_colour() -> None:
    for mode in ("L", "RGBA", "P", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (500, 300)).save(buffer, "PNG")
        assert _is(_drawn(buffer.getvalue(), Prediction("dog", "0", 1, (9, 9, 90, 90))), colour("dog")).any()


def test_what_is_no_picture_is_refused_as_ever() -> None:
    with pytest.raises(decode.InvalidImage):
        annotated(b"no", TaskResult(), max_pixels=MANY)
    with pytest.raises(decode.ImageTooLarge):
        annotated(_upload((100, 100)), TaskResult(), max_pixels=99)


def test_a_regression_s_numbers_are_written_in_the_corner() -> None:
    png = annotated(_upload((600, 400)), TaskResult(values={"age": 34.25, "height": -2.0}), max_pixels=MANY)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image, np.int16)
    for label in ("age", "height"):
        where = np.argwhere(_is(pixels, colour(label)))
        assert len(where) > 200
        assert where.max() < 200


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_that_the_network_made_is_answered_as_it_is(channels: int) -> None:
    pixels = np.arange(5 * 4 * channels, dtype=np.uint8).reshape(5, 4, channels)
    made = TaskResult(image=Pixels(pixels.shape, pixels.tobytes()))
    with Image.open(io.BytesIO(annotated(_upload((9, 9)), made, max_pixels=MANY))) as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def _mask(pixels: NDArray[np.bool_], area: tuple[int, int, int, int], label: str = "road") -> Prediction:
    height, width = pixels.shape
    begins, ends = rle.runs(np.ascontiguousarray(pixels.T), 0, 0, height)
    mask = Mask((height, width), rle.of_runs(begins, ends, (width, height)))
    return Prediction(label, "3", 0.9, area, 0.25, mask)


def test_a_mask_is_a_thin_colour_with_an_edge() -> None:
    inside = np.zeros((300, 400), np.bool_)  # half of the upload's size
    inside[150:250, 100:300] = True
    pixels = _drawn(_upload((800, 600)), _mask(inside, (200, 300, 400, 200)))
    ink = np.array(colour("road"))
    assert _extent(_is(pixels, colour("road"))) == (200, 300, 600, 500)
    thin = np.rint(np.array(PAPER) * 0.6 + ink * 0.4)
    for above_or_below in (pixels[310:380, 210:590], pixels[420:490, 210:590]):
        assert (np.abs(above_or_below - thin) < 3).all()
    # Its label stands in the middle.
    assert _extent(_is(pixels[310:490, 210:590], colour("road")))[:2] == pytest.approx((145, 78), abs=30)
    assert _is(pixels[310:490, 200:202], colour("road")).all()
    assert (pixels[520:] == PAPER).all()
    assert (pixels[310:490, :190] == PAPER).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (900, 700)])
def test_any_mask_is_drawn_within_the_picture(size: tuple[int, int]) -> None:
    inside = np.ones(size[::-1], np.bool_)
    assert _is(_drawn(_upload(size), _mask(inside, (0, 0, *size))), colour("road")).any()


def test_an_instance_s_share_is_its_probability_and_a_class_s_its_area() -> None:
    inside = np.ones((40, 60), np.bool_)
    whole = _mask(inside, (0, 0, 600, 400))
    instance = msgspec.structs.replace(whole, area=None)
    other = msgspec.structs.replace(whole, probability=0.25)
    as_class, as_instance, as_other = (_drawn(_upload((600, 400)), each) for each in (whole, instance, other))
    assert not np.array_equal(as_class, as_instance)
    assert np.array_equal(as_class, as_other)


def test_points_and_lines_are_drawn_if_they_are_probable() -> None:
    points = (Keypoint("a", 100, 100, 0.9), Keypoint("b", 300, 100, 0.8), Keypoint("c", 300, 300, 0.3))
    person = Prediction("person", "0", 0.9, (50, 50, 500, 300), keypoints=points)
    result = TaskResult((person,), skeleton=Skeleton(((0, 1), (1, 2), (0, 9)), 0.5))
    with Image.open(io.BytesIO(annotated(_upload((600, 400)), result, max_pixels=MANY))) as image:
        ink = _is(np.asarray(image, np.int16), colour("person"))
    assert ink[100, 105:295].all()
    assert not ink[110:345, 60:540].any()


MEASURE = """
import io, resource, sys
from PIL import Image
from broker.messages import Prediction, TaskResult
from pictures.annotate import annotated
upload = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = TaskResult((Prediction("dog", "0", 0.5, (10, 10, 900, 900)),))
annotated(upload, result, max_pixels=50_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "at_most_mb"), [("JPEG", 80), ("PNG", 330)])
def test_fifty_megapixels_cost_no_more_than_their_decoding(
    tmp_path: Path, kind: str, at_most_mb: int
) -> None:
    (tmp_path / "large").write_bytes(_upload((8600, 5800), kind))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "large")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) / 1024 < at_most_mb
