"""What is sent: pictures by name, labels, and the choice for every request number."""

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loadtest.sending.messages import Traffic
from loadtest.sending.traffic import Requests, read_label_file, read_pictures


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_drawn_pictures_are_different_ones_and_the_same_for_the_same_seed() -> None:
    drawn = read_pictures(Traffic(draw=(64, 48)))
    assert drawn == read_pictures(Traffic(draw=(64, 48)))
    assert list(drawn) == [f"drawn-{number}.jpg" for number in range(8)]
    assert len(set(drawn.values())) == 8
    other = read_pictures(Traffic(draw=(64, 48), seed=1))
    assert not set(other.values()) & set(drawn.values())


@pytest.mark.parametrize(("size", "count"), [((640, 480), 2), ((1, 1), 1), ((3, 200), 1), ((65500, 1), 1)])
def test_drawn_pictures_have_the_size_and_the_number_asked_for(size: tuple[int, int], count: int) -> None:
    drawn = read_pictures(Traffic(draw=size, draw_count=count))
    images = [Image.open(io.BytesIO(content)) for content in drawn.values()]
    assert [(image.format, image.size, image.mode) for image in images] == [("JPEG", size, "RGB")] * count


def test_a_drawn_picture_is_a_dark_stroke_in_the_middle_of_a_mottled_light_ground() -> None:
    for drawn in read_pictures(Traffic(draw=(96, 72))).values():
        grey = np.asarray(Image.open(io.BytesIO(drawn)).convert("L"))
        assert np.median(grey) > 180
        assert np.ptp(grey[:8]) > 10
        rows, columns = np.nonzero(grey < 100)
        assert 0.1 * 72 < rows.min() < rows.max() < 0.9 * 72
        assert 0.15 * 96 < columns.min() < columns.max() < 0.85 * 96
        assert np.ptp(rows) + np.ptp(columns) > 30


def test_folders_give_their_pictures_and_files_are_taken_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "in/b.JPG", "in/deep/a.png", "in/labels.csv", "in/folder.png/c.webp", "odd.txt")
    pictures = read_pictures(Traffic(paths=(str(tmp_path / "odd.txt"), str(tmp_path / "in"))))
    assert pictures == {
        "b.JPG": b"in/b.JPG",
        "deep/a.png": b"in/deep/a.png",
        "folder.png/c.webp": b"in/folder.png/c.webp",
        "odd.txt": b"odd.txt",
    }
    assert list(pictures) == sorted(pictures)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a/x.jpg", "b/x.jpg")
    with pytest.raises(ValueError, match=r"two pictures have the name x\.jpg"):
        read_pictures(Traffic(paths=(str(tmp_path / "a"), str(tmp_path / "b/x.jpg"))))


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/none.jpg: No such file")):
        read_pictures(Traffic(paths=(f"{tmp_path}/none.jpg",)))


def test_folders_without_a_picture_are_refused_and_nothing_is_drawn(tmp_path: Path) -> None:
    write(tmp_path, "labels.csv")
    with pytest.raises(ValueError, match=r"have no picture \(\.bmp, "):
        read_pictures(Traffic(paths=(str(tmp_path),)))


def labels(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file,label\na.jpg,cat\n", {("", "a.jpg"): "cat"}),
        ("\ufefffile,label\r\na.jpg,cat\r\n", {("", "a.jpg"): "cat"}),
        ("label,note,file\ncat,x,a.jpg\n", {("", "a.jpg"): "cat"}),
        (
            "file,label,model\na.jpg,cat,m\na.jpg,7,digits\nb.jpg,dog,\n",
            {("m", "a.jpg"): "cat", ("digits", "a.jpg"): "7", ("", "b.jpg"): "dog"},
        ),
        ('file,label\n"a, b.jpg","tiger cat, striped"\n', {("", "a, b.jpg"): "tiger cat, striped"}),
        ("file,label\na.jpg,\n", {("", "a.jpg"): ""}),
    ],
)
def test_a_file_of_labels(text: str, expected: dict[tuple[str, str], str], tmp_path: Path) -> None:
    assert read_label_file(labels(tmp_path, text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "file,label\n", "name,label\na,cat\n", "file\na.jpg\n", "file,label\na.jpg\n", "file,label\n,cat\n"],
)
def test_a_file_of_labels_must_have_its_columns_and_rows(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels\.csv must have the columns file,label"):
        read_label_file(labels(tmp_path, text))


@pytest.mark.parametrize("text", [b"file,label\na,\xff\n", b"file,label\na," + b"x" * 200_000, None])
def test_what_is_no_file_of_labels(text: bytes | None, tmp_path: Path) -> None:
    path = labels(tmp_path, text) if text else str(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=re.escape(f"{path} can't be read")):
        read_label_file(path)


def test_labels_are_expected_by_model_and_picture(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg")
    expect = labels(tmp_path, "file,label,model\na.jpg,cat,\na.jpg,7,digits\nb.jpg,dog,\nc.jpg,cow,\n")
    traffic = Traffic(paths=(str(tmp_path),), models=(("", 0.5), ("digits", 0.5)), expect=expect)
    assert Requests(traffic).expected == {
        ("", "a.jpg"): "cat",
        ("", "b.jpg"): "dog",
        ("digits", "a.jpg"): "7",
        ("digits", "b.jpg"): "dog",
    }


@pytest.mark.parametrize(
    ("model", "text", "said"),
    [
        ("", "file,label\nb.jpg,dog\n", r"has no label for a\.jpg$"),
        ("m", "file,label,model\na.jpg,cat,other\n", r"has no label for a\.jpg of model m$"),
        ("", "file,label,model\na.jpg,cat,other\n", r"has no label for a\.jpg$"),
    ],
)
def test_every_picture_needs_a_label(model: str, text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=said):
        Requests(Traffic(paths=(str(tmp_path),), models=((model, 1.0),), expect=labels(tmp_path, text)))


def test_without_a_file_of_labels_none_is_expected() -> None:
    assert Requests(Traffic(draw=(8, 8))).expected == {}


MIXED = Traffic(draw=(8, 8), draw_count=3, models=(("a", 0.75), ("b", 0.15), ("c", 0.1)), polled=0.25)


def test_pictures_are_sent_in_turn() -> None:
    requests = Requests(MIXED)
    names = [requests.choice(number).picture for number in range(7)]
    assert names == [f"drawn-{number % 3}.jpg" for number in range(7)]


def test_the_choice_depends_on_the_number_only() -> None:
    first, second = Requests(MIXED), Requests(MIXED)
    forwards = [first.choice(number) for number in range(100)]
    assert forwards == [second.choice(number) for number in reversed(range(100))][::-1]


@pytest.mark.parametrize("count", [40, 400, 20_000])
def test_shares_are_met_within_a_few_requests_from_the_first_on(count: int) -> None:
    requests = Requests(MIXED)
    choices = [requests.choice(number) for number in range(count)]
    models = Counter(choice.model for choice in choices)
    for model, share in MIXED.models:
        assert abs(models[model] - share * count) < 5
    assert abs(sum(choice.polled for choice in choices) - 0.25 * count) < 5


def test_pictures_models_and_polling_are_not_in_step() -> None:
    requests = Requests(MIXED)
    count = 20_000
    together = Counter(requests.choice(number) for number in range(count))
    assert len(together) == 3 * 3 * 2
    for choice, found in together.items():
        share = dict(MIXED.models)[choice.model] * (0.25 if choice.polled else 0.75) / 3
        assert abs(found - share * count) < 40, choice


@pytest.mark.parametrize("polled", [0.0, 1.0])
def test_none_or_all_are_polled(polled: float) -> None:
    requests = Requests(Traffic(draw=(8, 8), polled=polled))
    assert {requests.choice(number).polled for number in range(10_000)} == {bool(polled)}


def test_a_model_alone_gets_every_request() -> None:
    requests = Requests(Traffic(draw=(8, 8), models=(("m", 1.0),)))
    assert {requests.choice(number).model for number in range(1000)} == {"m"}
