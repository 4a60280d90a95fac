"""Rows of boxes with points: their places on the photo, their names, what is drawn, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Fit, InputSpec, Library, TaskResult
from model_server.catalogue.model_spec import KerasFile, Label, ModelSpec
from model_server.tasks import TASKS
from model_server.tasks.keypoints import COCO_NAMES, COCO_SKELETON, Keypoints
from model_server.tasks.task import ReadOptions

TASK = TASKS["keypoints"]
INPUT = InputSpec(100, 100, 3, Fit.PAD, library=Library.OPENCV)
SIZE = (200, 100)
"""Of the photo: its input has 25 rows of padding above and below, and half of its pixels."""


def _spec(table: Keypoints, *labels: str) -> ModelSpec:
    named = tuple(Label(str(number), label) for number, label in enumerate(labels or ("person",)))
    return ModelSpec("m", Path(), TASK, KerasFile("x.keras"), INPUT, "unit", named, top=5, options=table)


def _output(*columns: list[float]) -> NDArray[np.float32]:
    return np.array(columns, np.float32).T


def _read(spec: ModelSpec, output: NDArray[np.float32], top: int = 10) -> TaskResult:
    return spec.task.read((output,), spec, ReadOptions(SIZE, top))


def test_points_are_in_pixels_of_the_upload() -> None:
    spec = _spec(Keypoints(names=("head", "tail")))
    far = [80.0, 60, 10, 10, 0.9, 78, 55.55, 0.7, 120, 10, 0.2]
    near = [30.0, 50, 20, 30, 0.6, 30, 40, 0.9, 25, 62.5, 0.8]
    answer = _read(spec, _output(near, far, [*near[:4], 0.1, *near[5:]]))
    assert [each.box for each in answer.predictions] == [(150, 60, 20, 20), (40, 20, 40, 60)]
    first, second = (each.keypoints or () for each in answer.predictions)
    assert [(each.name, each.x, each.y) for each in second] == [("head", 60.0, 30.0), ("tail", 50.0, 75.0)]
    assert [each.probability for each in second] == pytest.approx([0.9, 0.8])
    # Rounded to a tenth, and on the photo's edges if it is beyond them.
    assert [(each.x, each.y) for each in first] == [(156.0, 61.1), (200.0, 0.0)]
    assert len(_read(spec, _output(near, far), top=1).predictions) == 1


def test_17_points_are_coco_s_unless_they_have_names() -> None:
    row = [50.0, 50, 20, 20, 0.9, *[50.0, 50, 0.5] * 17]
    answer = _read(_spec(Keypoints(draw=0.3)), _output(row))
    assert tuple(each.name for each in answer.predictions[0].keypoints or ()) == COCO_NAMES
    assert answer.skeleton is not None
    assert (answer.skeleton.lines, answer.skeleton.least) == (COCO_SKELETON, 0.3)
    assert ("left_knee", "left_ankle") in {(COCO_NAMES[b], COCO_NAMES[a]) for a, b in COCO_SKELETON}
    others = _read(_spec(Keypoints(names=tuple("abcdefghijklmnopq"))), _output(row))
    assert others.skeleton is not None
    assert others.skeleton.lines == ()


def test_other_points_are_numbered() -> None:
    answer = _read(_spec(Keypoints(skeleton=((0, 2),))), _output([50, 50, 20, 20, 0.9, *[50, 50, 0.5] * 3]))
    assert [each.name for each in answer.predictions[0].keypoints or ()] == ["0", "1", "2"]
    assert answer.skeleton is not None
    assert answer.skeleton.lines == ((0, 2),)


def test_nothing_found_is_an_empty_answer() -> None:
    assert _read(_spec(Keypoints()), _output([50, 50, 20, 20, 0.1, 50, 50, 0.5])) == TaskResult()


def test_points_that_are_not_finite_are_no_answer() -> None:
    with pytest.raises(InferenceFailed, match="keypoints for this picture are not finite"):
        _read(_spec(Keypoints()), _output([50, 50, 20, 20, 0.9, np.nan, 50, 0.5]))


@pytest.mark.parametrize(
    ("table", "shape", "said"),
    [
        (Keypoints(), (56, 2100), ""),
        (Keypoints(names=("a", "b")), (11, 10), ""),
        (Keypoints(), (57, 2100), r"is \(57, 2100\), but 1 labels need \(4 \+ 1 \+ 3 x points, n\)"),
        (Keypoints(names=("a", "b")), (14, 10), r"3 x 2, n\)"),
        (Keypoints(), (5, 10), "3 x points"),
        (Keypoints(), (1, 56, 10), "3 x points"),
        (Keypoints(skeleton=((0, 2),)), (11, 10), "gives 2 keypoints, but skeleton in .keypoints. has 2"),
    ],
)
def test_another_shape_is_refused(table: Keypoints, shape: tuple[int, ...], said: str) -> None:
    problem = TASK.misfit(_spec(table), [shape])
    assert re.search(said, problem) if said else problem == ""


def test_engines_are_compared_by_boxes_and_by_points() -> None:
    spec = _spec(Keypoints(), "a", "b")
    chance = np.random.default_rng(2)
    right = chance.uniform(5, 90, (2, 4 + 2 + 6, 30)).astype(np.float32)
    right[:, 4:6] /= 100
    same = TASK.compare(spec, (right,), (right * np.float32(1 + 1e-6),), "fp32")
    assert same.agrees
    for row in (0, 4, 8):
        other = right.copy()
        other[:, row] *= 0.9
        verdict = TASK.compare(spec, (right,), (other,), "fp32")
        assert not verdict.agrees
    assert "keypoints by" in str(verdict)
    with pytest.raises(ValueError, match="shape"):
        TASK.compare(spec, (right,), (right[..., 1:],), "fp32")


def test_the_network_of_another_task_is_told_apart() -> None:
    assert 'task = "keypoints"' in TASK.hint([(56, 8400)])
    assert TASK.hint([(84, 8400)]) == TASK.hint([(1000,)]) == ""
