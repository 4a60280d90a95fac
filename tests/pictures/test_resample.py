"""Resizing, against the libraries whose arithmetic it has."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from broker.messages import KERNELS, Decode, Fit, InputSpec, Library, Resample
from pictures import fixed_point
from pictures.fit import fit, prepare
from pictures.resample import Axis, resized
from tests.support.pictures import encoded

SIZES = [
    ((503, 701), (224, 224)),
    ((448, 448), (224, 224)),
    ((672, 448), (224, 224)),
    ((100, 130), (224, 224)),
    ((300, 100), (224, 224)),
    ((2, 3), (5, 2)),
    ((1, 1), (8, 8)),
]
"""(height, width) before and after: smaller, a half, another whole share, larger, each its own, tiny."""

CV_KERNELS = {
    Resample.NEAREST: cv2.INTER_NEAREST,
    Resample.BILINEAR: cv2.INTER_LINEAR,
    Resample.BICUBIC: cv2.INTER_CUBIC,
    Resample.AREA: cv2.INTER_AREA,
}

EXACT = (Resample.NEAREST, Resample.BILINEAR, Resample.AREA)
"""As OpenCV has them."""


def _picture(size: tuple[int, int], *, channels: int = 3) -> Image.Image:
    """Noise with some of a photo's smoothness: neighbours that differ, but not all by a lot."""
    chance = np.random.default_rng(size)
    small = (max(2, size[0] // 4), max(2, size[1] // 4), 3)[: 2 if channels == 1 else 3]
    noise = Image.fromarray(chance.integers(0, 256, small, dtype=np.uint8))
    return noise.resize(size[::-1], Image.Resampling.BICUBIC)


def _ours(picture: Image.Image, after: tuple[int, int], kernel: Resample, library: Library) -> NDArray[Any]:
    x = Axis(0.0, picture.width / after[1], after[1], picture.width)
    y = Axis(0.0, picture.height / after[0], after[0], picture.height)
    return resized(picture, x, y, kernel, library).astype(int)


def _agree(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert np.abs(found - expected).max() <= 1
    assert np.sum(found != expected) <= max(1, 0.005 * found.size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel", CV_KERNELS)
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_it_is_opencv_s(
    before: tuple[int, int], after: tuple[int, int], kernel: Resample, channels: int
) -> None:
    picture = _picture(before, channels=channels)
    expected = cv2.resize(np.asarray(picture), after[::-1], interpolation=CV_KERNELS[kernel])
    found = _ours(picture, after, kernel, Library.OPENCV)
    if kernel in EXACT:
        assert np.array_equal(found, expected)
    _agree(found, expected.astype(int))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", sorted(KERNELS[Library.TENSORFLOW]))
@pytest.mark.parametrize(("before", "after"), [*SIZES, ((3000, 4000), (299, 299))])
def test_it_is_tensorflow_s(before: tuple[int, int], after: tuple[int, int], kernel: Resample) -> None:
    import tensorflow as tf  # noqa: PLC0415 - seconds, which the other tests are spared

    picture = _picture(before)
    expected = tf.image.resize(np.asarray(picture), after, method=str(kernel)).numpy()
    rounded = np.clip(np.rint(expected), 0, 255).astype(int)
    found = _ours(picture, after, kernel, Library.TENSORFLOW)
    if kernel in (Resample.NEAREST, Resample.BILINEAR):
        assert np.array_equal(found, rounded)
    _agree(found, rounded)
    if kernel is not Resample.NEAREST:
        spec = InputSpec(after[1], after[0], 3, Fit.STRETCH, resample=kernel, library=Library.TENSORFLOW)
        kept = fixed_point.joined(fit(picture, spec))
        # Its own sum over the 130 pixels of an area is off by as much.
        assert np.abs(kept - expected).max() < (0.02 if kernel is Resample.AREA else 1 / 250)


@pytest.mark.slow
def test_bicubic_pixels_beyond_black_and_white_are_kept() -> None:
    import tensorflow as tf  # noqa: PLC0415 - likewise

    pixels = np.random.default_rng(0).choice([0, 255], (60, 60, 3)).astype(np.uint8)
    expected = tf.image.resize(pixels, (121, 121), method="bicubic").numpy()
    assert expected.min() < -50
    assert expected.max() > 305
    spec = InputSpec(121, 121, 3, Fit.STRETCH, resample=Resample.BICUBIC, library=Library.TENSORFLOW)
    assert np.abs(fixed_point.joined(fit(Image.fromarray(pixels), spec)) - expected).max() < 1 / 240


@pytest.mark.slow
@pytest.mark.parametrize("size", [(640, 480), (481, 640), (500, 500)])
def test_a_crop_is_smart_resize_s(size: tuple[int, int]) -> None:
    import keras  # noqa: PLC0415 - likewise

    picture = _picture(size)
    expected = keras.preprocessing.image.smart_resize(np.asarray(picture), (96, 128))
    spec = InputSpec(128, 96, 3, Fit.CROP, library=Library.TENSORFLOW)
    assert np.abs(fixed_point.joined(fit(picture, spec)) - expected).max() < 1 / 250


@pytest.mark.parametrize("channels", [1, 3])
def test_a_border_is_a_whole_value_beside_fractions(channels: int) -> None:
    picture = _picture((30, 60), channels=channels)
    spec = InputSpec(32, 32, channels, Fit.PAD, library=Library.TENSORFLOW, border=114)
    found = fixed_point.joined(fit(picture, spec))
    assert found.shape == (32, 32, channels)
    assert (found[:8] == 114).all()
    stretched = fit(picture, InputSpec(32, 16, channels, Fit.STRETCH, library=Library.TENSORFLOW))
    assert np.array_equal(found[8:24], fixed_point.joined(stretched))
    assert (found != np.rint(found)).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"subsampling": 0}, {"progressive": True}, {"subsampling": "4:1:1"}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_exact_is_what_the_libraries_decode(mode: str, kind: dict[str, Any]) -> None:
    import tensorflow as tf  # noqa: PLC0415 - seconds, which the other tests are spared

    upload = encoded(_picture((503, 701)).convert(mode), "JPEG", quality=83, **kind)
    channels = 1 if mode == "L" else 3
    flags = cv2.IMREAD_GRAYSCALE if mode == "L" else cv2.IMREAD_COLOR_RGB
    expected = {
        Library.PILLOW: np.asarray(Image.open(io.BytesIO(upload))),
        Library.OPENCV: cv2.imdecode(np.frombuffer(upload, np.uint8), flags),
        Library.TENSORFLOW: tf.io.decode_jpeg(upload, channels=channels).numpy(),
    }
    for library, pixels in expected.items():
        spec = InputSpec(701, 503, channels, Fit.STRETCH, library=library, decode=Decode.EXACT)
        found = prepare(upload, spec, max_pixels=10_000_000).pixels
        values = fixed_point.joined(found) if spec.keeps_fractions else found
        assert np.array_equal(values, pixels.reshape(values.shape)), library


@pytest.mark.parametrize(("width", "height"), [(301, 200), (200, 301), (255, 256)])
def test_a_letterbox_is_ultralytics(width: int, height: int) -> None:
    """ultralytics.data.augment.LetterBox, with auto=False."""
    picture = _picture((height, width))
    ratio = min(128 / height, 128 / width)
    inner = round(width * ratio), round(height * ratio)
    dw, dh = (128 - inner[0]) / 2, (128 - inner[1]) / 2
    scaled = cv2.resize(np.asarray(picture), inner, interpolation=cv2.INTER_LINEAR)
    top, bottom, left, right = (round(each) for each in (dh - 0.1, dh + 0.1, dw - 0.1, dw + 0.1))
    expected = cv2.copyMakeBorder(scaled, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114,) * 3)
    spec = InputSpec(128, 128, 3, Fit.PAD, library=Library.OPENCV, border=114)
    assert np.array_equal(fit(picture, spec), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", [Fit.STRETCH, Fit.CROP, Fit.PAD])
def test_a_picture_decoded_smaller_is_cut_where_the_whole_one_is(orientation: int, how: Fit) -> None:
    """Sides that no factor divides: the last pixel of the smaller picture lies partly outside."""
    waves = np.add.outer(np.arange(1003) * 0.11, np.arange(1205) * 0.07)
    smooth = Image.fromarray((127 + 127 * np.sin(waves)).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    upload = encoded(smooth, "JPEG", quality=97, exif=exif)
    fast = InputSpec(128, 96, 3, how, resize=140 if how is Fit.CROP else 0)
    exact = InputSpec(128, 96, 3, how, resize=fast.resize, decode=Decode.EXACT)
    quick = prepare(upload, fast, max_pixels=10_000_000).pixels.astype(int)
    whole = prepare(upload, exact, max_pixels=10_000_000).pixels.astype(int)
    # Cut by the smaller picture's own size it would be 35 and 11.
    assert np.abs(quick - whole).max() <= 9
    assert np.abs(quick - whole).mean() < 2
