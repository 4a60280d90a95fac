"""Answers as named outputs: every task's, and what its card says of them beforehand."""

from dataclasses import replace
from typing import Any

import pytest

from broker.messages import Keypoint, Mask, Prediction, Result
from tests.support.fakes import CARD
from web.dialects import named_outputs


def _of(task: str, *predictions: Prediction, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field's
    result = Result("id", CARD.model, "v1", predictions=predictions, **fields)
    return named_outputs.of(result, replace(CARD, task=task))


CAT = Prediction(
    "cat",
    "7",
    0.75,
    box=(10, 20, 30, 40),
    mask=Mask((80, 60), "abc"),
    keypoints=(Keypoint("nose", 1.5, 2.5, 0.5),),
)


def test_boxes_are_corners_in_pixels() -> None:
    assert _of("detection", CAT, Prediction("dog", "8", 0.5, box=(0, 0, 1, 2))) == {
        "boxes": [(10, 20, 40, 60), (0, 0, 1, 2)],
        "scores": [0.75, 0.5],
        "classes": ["cat", "dog"],
    }


def test_masks_and_points_stand_beside_them() -> None:
    masks = _of("segmentation", CAT)
    assert (masks["masks"], masks["mask_sizes"], masks["boxes"]) == (["abc"], [(80, 60)], [(10, 20, 40, 60)])
    assert _of("keypoints", CAT)["keypoints"] == [[(1.5, 2.5, 0.5)]]


@pytest.mark.parametrize("task", ["detection", "segmentation", "keypoints"])
def test_what_found_nothing_has_empty_outputs(task: str) -> None:
    outputs = _of(task)
    assert set(outputs) == set(named_outputs.declared(replace(CARD, task=task)))
    assert all(values == [] for values in outputs.values())


def test_a_task_that_is_unknown_here_has_classes() -> None:
    assert _of("ordered", CAT) == {"scores": [0.75], "classes": ["cat"]}
    assert named_outputs.declared(replace(CARD, task="ordered")) == {}


def test_a_model_s_own_code_and_steps_name_their_outputs() -> None:
    assert _of("raw", result={"age": 7}) == {"age": 7}
    assert _of("pipeline", steps={"find": {"success": True}}) == {"find": {"success": True}}


def test_a_card_tells_the_shapes() -> None:
    assert named_outputs.declared(CARD) == {"probabilities": ("DT_FLOAT", (-1, CARD.classes))}
    assert named_outputs.declared(replace(CARD, task="detection"))["boxes"].shape == (-1, -1, 4)


def test_what_own_code_adds_stands_beside_the_outputs_of_its_task() -> None:
    own = {"is_certain": False}
    assert _of("classification", CAT, result=own, scores=(0.25, 0.75)) == {
        "probabilities": (0.25, 0.75),
        "scores": [0.75],
        "classes": ["cat"],
        "is_certain": False,
    }
    assert _of("classification", result=own, scores=(0.5, 0.5)) == {"probabilities": (0.5, 0.5), **own}
    assert _of("detection", CAT, result=own) == {**_of("detection", CAT), **own}
    assert _of("detection", result=own) == {"boxes": [], "scores": [], "classes": [], **own}
