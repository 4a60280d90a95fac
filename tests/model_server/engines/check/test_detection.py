"""What counts as the same detections."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from broker.messages import Fit, InputSpec
from model_server.catalogue.detection_layout import Detection
from model_server.catalogue.model_spec import KerasFile, Label, ModelSpec
from model_server.engines.check import agreement
from model_server.engines.check.agreement import Reference
from model_server.engines.check.detection import TOLERANCES
from model_server.tasks.detection import DetectionTask

TASK = DetectionTask()
compare = TASK.compare

SPEC = ModelSpec(
    name="boxes",
    folder=Path(),
    task=TASK,
    source=KerasFile("x.keras"),
    input=InputSpec(100, 100, 3, Fit.STRETCH),
    normalise="unit",
    labels=(Label("0", "cat"), Label("1", "dog")),
    top=5,
    options=Detection(objectness=2, format="cxcywh"),
)

Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _right() -> Outputs:
    chance = np.random.default_rng(4)
    boxes = chance.uniform(0.2, 0.8, (3, 50, 4))
    return (
        boxes.astype(np.float32),
        chance.uniform(0.01, 1, (3, 50, 2)).astype(np.float32),
        chance.uniform(0.001, 1, (3, 50)).astype(np.float32),
    )


def test_what_is_the_same_agrees() -> None:
    verdict = compare(SPEC, _right(), _right(), "fp32")
    assert (verdict.agrees, verdict.pictures, verdict.peak, verdict.log, verdict.box) == (True, 3, 0, 0, 0)


def test_a_little_noise_agrees_in_16_bits_and_not_in_32() -> None:
    boxes, scores, objectness = _right()
    noise = 1 + np.random.default_rng(5).normal(0, 0.004, boxes.shape).astype(np.float32)
    found = (boxes * noise, scores * noise[..., :2], objectness)
    assert compare(SPEC, _right(), found, "bf16").agrees
    assert not compare(SPEC, _right(), found, "fp32").agrees


@pytest.mark.parametrize("change", ["wider", "aside", "exchanged", "of another box"])
def test_boxes_that_are_wrong_are_found_whatever_the_scores_say(change: str) -> None:
    boxes, scores, objectness = _right()
    wrong = {
        "wider": boxes * np.array([1, 1, 1.15, 1], np.float32),
        "aside": boxes + np.array([0.05, 0, 0, 0], np.float32),
        "exchanged": boxes[..., [1, 0, 3, 2]],
        "of another box": np.roll(boxes, 1, axis=1),
    }[change]
    verdict = compare(SPEC, _right(), (wrong, scores, objectness), "bf16")
    assert not verdict.agrees
    assert (verdict.peak, verdict.log) == (0, 0)
    assert verdict.box > TOLERANCES["bf16"].box


def test_scores_that_are_wrong_are_found_even_where_all_are_small() -> None:
    boxes, scores, objectness = _right()
    small = scores * np.float32(1e-4)
    verdict = compare(SPEC, (boxes, small, objectness), (boxes, small[..., ::-1], objectness), "bf16")
    assert verdict.peak < 0.001
    assert not verdict.agrees


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, 1, 2])
def test_what_is_no_number_never_agrees(output: int, bad: float) -> None:
    found = _right()
    found[output].flat[7] = bad
    with np.errstate(invalid="ignore"):
        assert not compare(SPEC, _right(), found, "int8").agrees


def test_boxes_without_an_area_agree_where_they_are_the_same() -> None:
    boxes, scores, objectness = _right()
    boxes[0, 0, 2:] = 0
    assert compare(SPEC, (boxes, scores, objectness), (boxes.copy(), scores, objectness), "fp32").box == 0


def test_an_engine_that_disagrees_is_refused_with_the_numbers() -> None:
    boxes, scores, objectness = right = _right()
    reference = Reference(np.zeros((3, 2, 2, 1), np.uint8), right)
    assert agreement.require(SPEC, "fast", "fp32", reference, lambda _: right).agrees
    wrong = (boxes[..., ::-1], scores, objectness)
    with pytest.raises(ModelUnavailable, match=r"boxes by 0\.\d+ of their overlap \(at most 0\.06\)"):
        agreement.require(SPEC, "fast", "bf16", reference, lambda _: wrong)
    with pytest.raises(ModelUnavailable, match="shapes"):
        agreement.require(SPEC, "fast", "bf16", reference, lambda _: right[:2])
