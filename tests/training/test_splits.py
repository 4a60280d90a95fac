"""What is learnt from, what stops, what judges: shares of every class, stable, and no picture in two."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.training.folders import fill, picture
from training import labelled_folder
from training.labelled_folder import LabelledFolderError
from training.splits import Division, Shares, divide, without_repeats

CLASSES = ("many", "few")
LABELS = np.array([0] * 200 + [1] * 10, np.int64)


def _digests(count: int) -> list[str]:
    chance = random.Random(3)
    return [f"{chance.getrandbits(256):064x}" for _ in range(count)]


def _parts(division: Division) -> list[set[int]]:
    return [set(rows.tolist()) for rows in (division.training, division.validation, division.held_out)]


def test_every_class_has_its_share_in_each_part_and_every_row_one_part() -> None:
    division = divide(_digests(210), LABELS, CLASSES, Shares(held_out=0.2, validation=0.1))
    counts = [np.bincount(LABELS[sorted(rows)]).tolist() for rows in _parts(division)]
    assert counts == [[140, 7], [20, 1], [40, 2]]
    assert sorted(row for rows in _parts(division) for row in rows) == list(range(210))


def test_a_picture_s_part_depends_on_its_bytes_alone() -> None:
    digests = _digests(210)
    before = divide(digests, LABELS, CLASSES, Shares())
    order = list(range(210))
    random.Random(5).shuffle(order)
    after = divide([digests[row] for row in order], LABELS[order], CLASSES, Shares())
    for was, now in zip(_parts(before), _parts(after), strict=True):
        assert was == {order[row] for row in now}


def test_a_tenth_more_pictures_move_few_of_the_others() -> None:
    digests = _digests(220)
    labels = np.zeros(220, np.int64)
    before = divide(digests[:200], labels[:200], ("one",), Shares())
    after = divide(digests, labels, ("one",), Shares())
    assert len(_parts(before)[2] - _parts(after)[2]) <= 8
    # The order of the files would move nearly all.
    assert len(_parts(before)[2] & _parts(after)[2]) >= 32


def test_the_smallest_class_that_is_taken_still_has_three_parts() -> None:
    labels = np.array([0] * 5 + [1] * 5, np.int64)
    for shares in (Shares(), Shares(held_out=0.4, validation=0.4), Shares(0.01, 0.01)):
        for rows in _parts(divide(_digests(10), labels, CLASSES, shares)):
            assert set(labels[sorted(rows)].tolist()) == {0, 1}
    with pytest.raises(
        LabelledFolderError, match="few has 4 pictures that can be used; a class needs at least 5"
    ):
        divide(_digests(9), labels[:9], CLASSES, Shares())


def test_a_copy_is_left_out_and_a_picture_with_two_labels_altogether(tmp_path: Path) -> None:
    fill(tmp_path, each=3)
    (tmp_path / "sea" / "0 copy.jpg").write_bytes(picture("sea", 0))
    (tmp_path / "wine" / "also grass.jpg").write_bytes(picture("grass", 1))
    kept, skipped = without_repeats(labelled_folder.files_of(tmp_path)[1])
    assert len(kept) == len(set(kept.values())) == 8
    reasons = {Path(each.file.name).relative_to(tmp_path).as_posix(): each.reason for each in skipped}
    assert set(reasons) == {"sea/0.jpg", "grass/1.jpg", "wine/also grass.jpg"}
    assert reasons["sea/0.jpg"].endswith("0 copy.jpg.")
    assert reasons["grass/1.jpg"] == reasons["wine/also grass.jpg"]
