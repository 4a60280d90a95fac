"""The client's types against the service's own: a field that only the service knows fails here."""

import base64
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from broker import messages
from clients import answers
from web import responses

SAME = [
    (answers.Mask, messages.Mask),
    (answers.Keypoint, messages.Keypoint),
    (answers.Skeleton, messages.Skeleton),
    (answers.RawOutput, messages.RawOutput),
    (answers.Prediction, messages.Prediction),
    (answers.ErrorDetail, responses.ErrorDetail),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=lambda kind: kind.__module__)
def test_a_type_has_the_fields_of_the_service_s(ours: type[Any], theirs: type[msgspec.Struct]) -> None:
    assert {each.name for each in fields(ours)} == set(theirs.__struct_fields__)


def test_an_answer_has_the_fields_of_the_service_s() -> None:
    of_a_form_s_file = {"class_id", "class_name"}  # which this client does not use
    theirs = set(responses.Answer.__struct_fields__) | set(responses.FailedAnswer.__struct_fields__)
    assert {each.name for each in fields(answers.Answer)} - {"raw"} == theirs - of_a_form_s_file


def test_a_model_has_no_field_that_the_service_has_not() -> None:
    theirs = {each.name for each in fields(responses.ModelSummary)}
    assert {each.name for each in fields(answers.ModelSummary)} < theirs


def test_what_the_service_writes_is_read() -> None:
    mask = messages.Mask(size=(2, 3), form="png", png=b"\x89PNG")
    prediction = messages.Prediction(
        label="dog",
        class_id="16",
        probability=0.5,
        box=(1, 2, 3, 4),
        area=0.25,
        mask=mask,
        keypoints=(messages.Keypoint("nose", 1.5, 2.5, 0.75),),
        steps={"breed": {"success": False, "error": {"code": "no_worker", "message": "Why."}}},
    )
    theirs = responses.Answer(
        success=True,
        model="m",
        id="i",
        predictions=(prediction,),
        values={"price": 1.5},
        embedding=(0.5, 0.25),
        image=b"\x89PNG",
        outputs={"x": messages.RawOutput((1, 2), (0.5, 0.5))},
        result={"anything": [1]},
        skeleton=messages.Skeleton(((0, 1),), 0.5),
        steps={"objects": {"success": True, "model": "yolo", "predictions": []}},
        notice="n",
        model_version="v",
        engine="openvino",
        precision="bf16",
        batch_size=3,
        timings_ms=messages.Timings(1.0, 2.0, 3.0),
    )
    ours = msgspec.convert(msgspec.json.decode(msgspec.json.encode(theirs)), answers.Answer)
    (read,) = ours.predictions
    assert (read.box, read.mask) == ((1, 2, 3, 4), answers.Mask(size=(2, 3), form="png", png=b"\x89PNG"))
    assert read.keypoints == (answers.Keypoint(name="nose", x=1.5, y=2.5, probability=0.75),)
    assert read.steps is not None
    assert read.steps["breed"].error == answers.ErrorDetail(code="no_worker", message="Why.")
    assert ours.steps is not None
    assert ours.steps["objects"].model == "yolo"
    assert ours.best is read
    assert ours.image == b"\x89PNG"
    again = msgspec.to_builtins(ours)
    expected = msgspec.to_builtins(theirs)
    assert {name: again[name] for name in expected if name not in ("predictions", "steps")} == {
        name: value for name, value in expected.items() if name not in ("predictions", "steps")
    }
    assert expected["image"] == base64.b64encode(b"\x89PNG").decode()
