"""The figures of a retrained network, from outputs whose right answers are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import evaluation

LABELS = np.array([0, 0, 0, 0, 1, 1, 2], np.int64)
NAMED = [0, 0, 0, 1, 1, 0, 1]
OUTPUTS = np.eye(3, dtype=np.float32)[NAMED]


def test_figures_are_those_that_a_hand_finds() -> None:
    found = evaluation.judge(("cat", "dog", "frog"), LABELS, OUTPUTS)
    assert found.matrix.tolist() == [[3, 1, 0], [1, 1, 0], [0, 1, 0]]
    assert found.accuracy == 4 / 7
    assert found.by_class() == {
        "cat": {"held_out": 4, "recall": 0.75, "precision": 0.75},
        "dog": {"held_out": 2, "recall": 0.5, "precision": 0.3333},
        "frog": {"held_out": 1, "recall": 0.0, "precision": 0.0},
    }
    assert [line.split()[0] for line in found.lines()] == ["class", "frog", "dog", "cat"]


def _verdict(*rows: list[int]) -> evaluation.Evaluation:
    return evaluation.Evaluation([f"class {number}" for number in range(len(rows))], np.array(rows, np.int64))


@pytest.mark.parametrize(
    "rows",
    [
        ([0, 0, 2], [0, 0, 2], [0, 0, 2]),  # the same for every picture
        ([1, 1], [1, 1]),
        ([60, 0], [30, 0]),
    ],
)
def test_a_network_that_guesses_is_warned_of_with_what_to_try(rows: tuple[list[int], ...]) -> None:
    found = _verdict(*rows)
    words = found.warning()
    assert f"held-out accuracy of {found.accuracy:.2%} is no better than guessing" in words
    for way_out in ("more pictures", "--weights imagenet", "--epochs"):
        assert way_out in words.lower()


@pytest.mark.parametrize(
    ("rows", "told", "guessing"),
    [
        (([2, 0], [1, 1]), "75.00%", "50.00%"),
        (([51, 49], [50, 50]), "50.50%", "50.00%"),  # a point above chance is none, of 200 pictures
    ],
)
def test_of_a_network_that_may_have_learnt_something_it_is_said_that_nobody_can_tell(
    rows: tuple[list[int], ...], told: str, guessing: str
) -> None:
    found = _verdict(*rows)
    words = found.warning()
    assert f"held-out accuracy of {told} is hardly better than guessing" in words
    assert f"each time gives {guessing}" in words
    assert f"{found.matrix.sum()} held-out pictures are too few to say" in words
    assert "no better" not in words
    for way_out in ("more pictures", "--weights imagenet", "--epochs"):
        assert way_out in words


def test_guessing_is_to_name_the_most_frequent_class() -> None:
    assert "each time gives 66.67%" in _verdict([60, 0], [30, 0]).warning()


@pytest.mark.parametrize(
    "rows",
    [
        ([2, 0, 0], [0, 2, 0], [0, 1, 1]),
        ([75, 25], [30, 70]),
        ([780, 120], [10, 90]),  # right less often than who always names the first, and yet it knows both
    ],
)
def test_a_network_that_has_learnt_something_is_not(rows: tuple[list[int], ...]) -> None:
    assert _verdict(*rows).warning() == ""


@pytest.mark.slow
def test_the_report_and_the_picture_are_written(tmp_path: Path) -> None:
    found = evaluation.judge(("cat", "dog", "frog"), LABELS, OUTPUTS)
    evaluation.write_report(tmp_path / "report.json", found, {"base": "a network"})
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["base"] == "a network"
    assert report["held_out_accuracy"] == 0.5714
    assert report["confusion"]["dog"] == {"cat": 1, "dog": 1, "frog": 0}
    evaluation.draw_confusion(tmp_path / "confusion.png", found, "pets")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 400


@pytest.mark.slow
def test_a_picture_of_many_classes_stays_small_enough_to_be_opened(tmp_path: Path) -> None:
    count = 200
    found = evaluation.judge(
        [f"class {number}" for number in range(count)],
        np.arange(count),
        np.eye(count, dtype=np.float32),
    )
    evaluation.draw_confusion(tmp_path / "confusion.png", found, "many")
    with Image.open(tmp_path / "confusion.png") as image:
        assert max(image.size) < 5000
