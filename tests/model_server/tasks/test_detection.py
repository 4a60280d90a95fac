"""Boxes and scores to predictions: thresholds, formats, suppression, clipping, and what is no answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import InferenceFailed
from broker.messages import Fit, InputSpec, Prediction
from model_server.catalogue.detection_layout import Detection
from model_server.catalogue.model_spec import KerasFile, Label, ModelSpec
from model_server.tasks import TASKS, detection
from model_server.tasks.detection import MAX_CANDIDATES, detect, suppress
from model_server.tasks.task import ReadOptions

LABELS = (Label("0", "cat"), Label("1", "dog"), Label("2", "cow"))
SIZE = (200, 100)
"""Of the photo; the input is 100 x 100."""


def _spec(told: Detection) -> ModelSpec:
    source = KerasFile("x.keras")
    taken = InputSpec(100, 100, 3, Fit.STRETCH)
    return ModelSpec("m", Path(), TASKS["detection"], source, taken, "unit", LABELS, top=5, options=told)


def _row(box: list[float], **scores: float) -> tuple[list[float], list[float]]:
    return box, [scores.get(label.label, 0.0) for label in LABELS]


def _told(
    *rows: tuple[list[float], list[float]], told: Detection | None = None, top: int = 100
) -> tuple[Prediction, ...]:
    told = told or Detection()
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row[1] for row in rows], np.float32).reshape(-1, len(LABELS))
    return detect((boxes, scores), _spec(told), told, original_size=SIZE, top=top)


def test_a_box_is_told_in_pixels_of_the_photo_with_its_best_class() -> None:
    (found,) = _told(_row([0.1, 0.2, 0.5, 0.6], cat=0.5, dog=0.75))
    assert found == Prediction("dog", "1", 0.75, (20, 20, 80, 40))


def test_what_is_below_the_threshold_is_not_told_and_nothing_is_an_answer() -> None:
    assert _told(_row([0.1, 0.1, 0.5, 0.5], cat=0.39)) == ()
    assert _told() == ()
    assert len(_told(_row([0.1, 0.1, 0.5, 0.5], cat=0.5), told=Detection(confidence=0.5))) == 1


def test_the_best_come_first_and_top_bounds_them() -> None:
    rows = [_row([at / 10, 0, at / 10 + 0.1, 1], cat=0.5 + at / 20) for at in range(5)]
    assert [round(each.probability, 2) for each in _told(*rows, top=3)] == [0.7, 0.65, 0.6]


FORMATS = {
    "xyxy": [10, 20, 50, 60],
    "yxyx": [20, 10, 60, 50],
    "xywh": [10, 20, 40, 40],
    "cxcywh": [30, 40, 40, 40],
}


@pytest.mark.parametrize("shape", FORMATS)
@pytest.mark.parametrize("units", ["relative", "pixels"])
def test_every_format_tells_the_same(shape: str, units: str) -> None:
    told = Detection(format=shape, units=units)  # type: ignore[arg-type]
    box = [each / 100 if units == "relative" else each for each in FORMATS[shape]]
    (found,) = _told(_row(box, cow=0.9), told=told)
    assert found.box == (20, 20, 80, 40)


def test_objectness_is_a_factor() -> None:
    told = Detection(objectness=2)
    boxes = np.array([[0.1, 0.2, 0.5, 0.6]] * 3, np.float32)
    scores = np.array([[0.9, 0.1, 0.1], [0.5, 0.1, 0.1], [1, 1, 1]], np.float32)
    outputs = (boxes, scores, np.array([0.5, 0.5, 0.3], np.float32))
    (found,) = detect(outputs, _spec(told), told, original_size=SIZE, top=9)
    assert found.probability == pytest.approx(0.45)


def test_ultralytics_has_one_output_of_centres_in_pixels() -> None:
    told = Detection(layout="ultralytics")
    output = np.zeros((7, 5), np.float32)
    output[:, 2] = [30, 40, 40, 40, 0.1, 0.8, 0.1]
    for each in (output, output[None]):
        (found,) = detect((each,), _spec(told), told, original_size=SIZE, top=9)
        assert (found.label, found.box) == ("dog", (20, 20, 80, 40))


def test_of_boxes_that_overlap_only_the_best_of_a_class_is_told() -> None:
    rows = [
        _row([0.1, 0.1, 0.5, 0.5], cat=0.8),
        _row([0.12, 0.1, 0.52, 0.5], cat=0.9),
        _row([0.1, 0.1, 0.5, 0.5], dog=0.7),
        _row([0.5, 0.5, 0.9, 0.9], cat=0.6),
    ]
    assert [(each.label, round(each.probability, 1)) for each in _told(*rows)] == [
        ("cat", 0.9),
        ("dog", 0.7),
        ("cat", 0.6),
    ]
    assert len(_told(*rows, told=Detection(nms_iou=0.95))) == 4


@pytest.mark.slow
def test_suppression_is_the_plain_greedy_algorithm() -> None:
    chance = np.random.default_rng(11)
    corners = chance.uniform(0, 60, (400, 2)).repeat(2, axis=0).reshape(400, 4)
    corners[:, 2:] = corners[:, :2] + chance.uniform(5, 40, (400, 2))
    classes = chance.integers(0, 3, 400)

    def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
        wide, high = (min(a[2 + axis], b[2 + axis]) - max(a[axis], b[axis]) for axis in (0, 1))
        shared = max(wide, 0) * max(high, 0)
        return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))

    kept: list[int] = []
    for row in range(400):
        if all(
            classes[row] != classes[other] or overlap(corners[row], corners[other]) <= 0.45 for other in kept
        ):
            kept.append(row)
    assert suppress(corners, classes, at_most=400, iou=0.45) == kept
    assert suppress(corners, classes, at_most=7, iou=0.45) == kept[:7]
    assert 50 < len(kept) < 350


def test_boxes_end_at_the_photo_s_edges_and_those_beyond_are_none() -> None:
    found = _told(
        _row([-0.5, -0.2, 0.5, 2], cat=0.9),
        _row([1.1, 0.1, 1.3, 0.5], dog=0.9),
        _row([0.4, 0.4, 0.3, 0.5], cow=0.9),
        _row([0.9999, 0.9999, 3, 3], cow=0.8),
    )
    assert [each.box for each in found] == [(0, 0, 100, 100), (199, 99, 1, 1)]


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_decides_the_answer_must_be_finite(odd: float) -> None:
    with pytest.raises(InferenceFailed, match="scores for this picture are not finite"):
        _told(_row([0.1, 0.1, 0.5, 0.5], cat=0.9), _row([0.1, 0.1, 0.5, 0.5], dog=odd))
    with pytest.raises(InferenceFailed, match="boxes for this picture are not finite"):
        _told(_row([0.1, odd, 0.5, 0.5], cat=0.9))
    told = Detection(objectness=2)
    boxes, scores = np.ones((1, 4), np.float32), np.full((1, 3), odd, np.float32)
    with pytest.raises(InferenceFailed, match="not finite"):
        detect((boxes, scores, np.ones(1, np.float32)), _spec(told), told, original_size=SIZE, top=9)
    with pytest.raises(InferenceFailed, match="not finite"):
        detect(
            (boxes, boxes[:, :3], np.full(1, odd, np.float32)), _spec(told), told, original_size=SIZE, top=9
        )


@pytest.mark.parametrize("shapes", [[(5, 4)], [(5, 4), (5, 4)], [(5, 3), (5, 3)], [(5, 4), (5, 3), (5,)]])
def test_outputs_of_another_shape_are_no_answer(shapes: list[tuple[int, ...]]) -> None:
    outputs = tuple(np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(InferenceFailed, match="3 labels need"):
        detect(outputs, _spec(Detection()), Detection(), original_size=SIZE, top=9)


def test_outputs_with_an_axis_of_one_are_taken() -> None:
    boxes, scores = np.full((6, 1, 4), 0.5, np.float32), np.zeros((6, 3), np.float32)
    assert detect((boxes, scores), _spec(Detection()), Detection(), original_size=SIZE, top=9) == ()


def test_of_very_many_boxes_the_best_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "MAX_CANDIDATES", 3)
    rows = [_row([at / 10, 0, at / 10 + 0.1, 1], cat=0.5 + at / 20) for at in range(5)]
    assert len(_told(*rows)) == 3
    assert MAX_CANDIDATES > 1000


def test_the_task_decides_how_outputs_are_read() -> None:
    spec = _spec(Detection())
    outputs = (np.array([[0.1, 0.2, 0.5, 0.6]], np.float32), np.array([[0, 0.9, 0]], np.float32))
    assert spec.task.read(outputs, spec, ReadOptions(SIZE, 5)).predictions[0].box == (20, 20, 80, 40)
    plain = replace(spec, task=TASKS["classification"], options=None)
    (found, *_) = plain.task.read((outputs[1][0],), plain, ReadOptions(SIZE, 5)).predictions
    assert (found.label, found.box) == ("dog", None)
