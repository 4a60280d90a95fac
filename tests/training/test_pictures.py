"""The pictures that the digits' network learns from: shapes, ranges, seeds, and clear words for bad files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training import pictures
from training.pictures import (
    as_served,
    bent,
    on_paper,
    photographed,
    read_npz,
    redrawn,
    restroked,
    thinned,
)


def digits(count: int = 6) -> NDArray[np.uint8]:
    """Crosses of different sizes, light on black, fitted as MNIST's digits are."""
    drawn = np.zeros((count, 28, 28), np.uint8)
    for number, picture in enumerate(drawn):
        picture[4:24, 12:15] = 255
        picture[10 + number % 6, 6:22] = 200
    return drawn


def stored(path: Path, changes: dict[str, NDArray[np.generic] | None]) -> Path:
    """An .npz like MNIST's of the digits above; a change of None leaves that array out."""
    labels = np.arange(6, dtype=np.uint8)
    arrays = {"x_train": digits(), "y_train": labels, "x_test": digits(), "y_test": labels} | changes
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(path, **kept)
    return path


def redrawn_here(seed: int, workers: int = 1) -> NDArray[np.uint8]:
    with ThreadPoolExecutor(workers) as executor:
        return redrawn(digits(), seed, executor)


def test_npz_is_read(tmp_path: Path) -> None:
    train, test = read_npz(stored(tmp_path / "mnist.npz", {"y_test": np.arange(6, dtype=np.int64)}))
    assert np.array_equal(train.pictures, digits())
    assert test.labels.dtype == np.uint8
    assert test.labels.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_test": None}, "lacks an array: .*y_test"),
        ({"x_train": digits().astype(np.float32)}, r"pictures are float32 \(6, 28, 28\), not uint8"),
        ({"x_train": digits()[:, :20]}, r"pictures are uint8 \(6, 20, 28\)"),
        ({"x_test": digits()[:0]}, r"pictures are uint8 \(0, 28, 28\)"),
        ({"y_train": np.arange(5)}, r"labels are int64 \(5,\), not one integer a picture"),
        ({"y_train": np.zeros(6)}, "labels are float64"),
        ({"y_test": np.arange(6) + 6}, "labels run from 6 to 11, not within 0 to 9"),
        ({"x_train": np.array([{}])}, "is broken"),
    ],
)
def test_wrong_npz_is_named(
    tmp_path: Path, changes: dict[str, NDArray[np.generic] | None], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        read_npz(stored(tmp_path / "mnist.npz", changes))
    assert "mnist.npz" in str(raised.value)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut short"])
def test_what_is_no_npz_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mnist.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mnist\.npz is not an \.npz file, or there is no such file"):
        read_npz(path)


def test_as_served_leaves_mnist_in_place() -> None:
    bar = np.zeros((2, 28, 28), np.uint8)
    bar[:, 4:24, 12:17] = 255
    served = as_served(bar)
    assert served.dtype == np.uint8
    assert np.array_equal(served, bar)


def test_redrawn_keeps_shape_and_dtype_and_changes_the_pictures() -> None:
    copies = redrawn_here(seed=1)
    assert copies.shape == digits().shape
    assert copies.dtype == np.uint8
    assert copies.max(axis=(1, 2)).tolist() == [255] * 6
    assert all(not np.array_equal(copy, digit) for copy, digit in zip(copies, digits(), strict=True))


def test_redrawn_follows_the_seed_and_not_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_LOT", 2)
    assert np.array_equal(redrawn_here(seed=1, workers=1), redrawn_here(seed=1, workers=3))
    assert not np.array_equal(redrawn_here(seed=1), redrawn_here(seed=2))


def test_every_lot_is_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_LOT", 1)
    with ThreadPoolExecutor(1) as executor:
        copies = redrawn(np.repeat(digits()[:1], 4, axis=0), 1, executor)
    assert len(np.unique(copies, axis=0)) == 4


def test_photographed_follows_the_seed() -> None:
    once = photographed(digits(), 3)
    assert once.shape == digits().shape
    assert once.dtype == np.uint8
    assert np.array_equal(once, photographed(digits(), 3))
    assert not np.array_equal(once, photographed(digits(), 4))


def test_bent_is_larger_and_keeps_the_ink() -> None:
    image = bent(digits()[0], np.random.default_rng(0))
    assert (image.size, image.mode) == ((84, 84), "L")
    share = np.asarray(image).mean() / digits()[0].mean()
    assert 0.5 < share < 1.5


def test_on_paper_is_dark_on_light() -> None:
    drawn = Image.fromarray(digits()[0])
    for seed in range(20):
        image = on_paper(drawn, np.random.default_rng(seed))
        values = np.asarray(image, dtype=np.int64)
        assert image.mode == "L"
        assert np.median(values) > 110
        assert np.median(values) - values.min() > 30


def test_restroked_draws_thin_and_thick() -> None:
    drawn = bent(digits()[0], np.random.default_rng(0))
    inks = [np.asarray(restroked(drawn, np.random.default_rng(seed))).mean() for seed in range(20)]
    before = np.asarray(drawn).mean()
    assert min(inks) < 0.8 * before
    assert max(inks) > 1.3 * before


def test_thinned_never_breaks_a_stroke() -> None:
    strokes = np.zeros((30, 30), np.bool_)
    strokes[5:25, 10:17] = True
    for _ in range(20):
        strokes = thinned(strokes)
    line = np.flatnonzero(np.any(strokes, axis=1))
    assert strokes.sum(axis=1).max() == 1
    assert np.array_equal(line, np.arange(line[0], line[-1] + 1))
    assert line.size > 10
