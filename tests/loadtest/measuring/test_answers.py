"""Answers made by hand: the right ones tell what they should, each wrong one is named."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.measuring.answers import Reader, ServerAnswer, WrongAnswer
from loadtest.sending.messages import Record, Target

UNSORTED = "bad answer: malformed or unsorted predictions"


def prediction(label: str = "cat", probability: object = 0.9, **changes: object) -> dict[str, object]:
    return {"label": label, "class_id": "n1", "probability": probability, **changes}


def answer(**changes: object) -> dict[str, Any]:
    return {"success": True, "model": "m", "id": "id-0", "predictions": [prediction()], **changes}


def reader(
    *,
    check: str = "predictions",
    label: str = "",
    top: int | None = None,
    counts: dict[str, tuple[int, int]] | None = None,
) -> Reader:
    return Reader(Target("http://h", check="label" if label else check, label=label, top=top), counts or {})


def read(body: object, read_by: Reader | None = None, *, status: int = 200, model: str = "") -> ServerAnswer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (read_by or reader()).read(status, content, model)


def wrong(body: object, read_by: Reader | None = None, *, status: int = 200, model: str = "") -> str:
    with pytest.raises(WrongAnswer) as caught:
        read(body, read_by, status=status, model=model)
    return caught.value.kind


def test_a_right_answer_tells_its_label_id_batch_and_stages() -> None:
    predictions = [prediction("cat", 0.5), prediction("dog", 0.5), prediction("cow", 0.0)]
    body = answer(predictions=predictions, batch_size=128, timings_ms={"waiting": 0, "model": 9e3})
    assert read(body, reader(top=3), model="m") == ServerAnswer(
        "cat", "id-0", 128, {"waiting": 0.0, "model": 9e3}
    )


def test_what_is_not_told_is_empty() -> None:
    assert read(answer()) == ServerAnswer("cat", "id-0", 0, {})


@pytest.mark.parametrize("size", ["many", None, 2.5, True, -1, 2**31, [4]])
def test_a_batch_size_that_is_none_is_not_believed(size: object) -> None:
    assert read(answer(batch_size=size)).batch_size == 0


def test_of_the_timings_only_numbers_are_believed() -> None:
    timings = {"a": 1, "b": "x", "c": None, "d": True, "e": -1, "f": 10**300, "g": 0.5}
    assert read(answer(timings_ms=timings)).stages_ms == {"a": 1.0, "g": 0.5}
    assert read(answer(timings_ms=[1.0])).stages_ms == {}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "bad answer: not JSON"),
        (b"<html>", "bad answer: not JSON"),
        (b"\xff", "bad answer: not JSON"),
        (b'{"a": "\xff"}', "bad answer: not JSON"),
        (b'{"a": NaN}', "bad answer: not JSON"),
        (b"[" * 100_000, "bad answer: not JSON"),
        (b"[1]", "bad answer: wrong shape"),
        (b"{}", "bad answer: wrong shape"),
        (answer(success=1), "bad answer: wrong shape"),
        (answer(success=False), "bad answer: wrong shape"),
        (answer(model=None), "bad answer: wrong shape"),
        (answer(id=7), "bad answer: wrong shape"),
        (answer(id=""), "bad answer: wrong shape"),
        (answer(predictions={}), "bad answer: wrong shape"),
        (answer(predictions=[]), "bad answer: wrong number of predictions"),
        (answer(predictions=["cat"]), UNSORTED),
        (answer(predictions=[{"label": "cat", "probability": 0.5}]), UNSORTED),
        (answer(predictions=[{"label": "cat", "class_id": "n1"}]), UNSORTED),
        (answer(predictions=[{"class_id": "n1", "probability": 0.5}]), UNSORTED),
        (answer(predictions=[prediction(probability="0.5")]), UNSORTED),
        (answer(predictions=[prediction(probability=True)]), UNSORTED),
        (answer(predictions=[prediction(probability=1.01)]), UNSORTED),
        (answer(predictions=[prediction(probability=-0.01)]), UNSORTED),
        (answer(predictions=[prediction("cat", 0.4), prediction("dog", 0.5)]), UNSORTED),
        (answer(predictions=[prediction("a", 0.5), prediction("b", 0.4), prediction("c", 0.45)]), UNSORTED),
        (answer(predictions=[prediction(area=0.1), prediction("dog", area=0.2)]), UNSORTED),
        (answer(predictions=[prediction(box=[1, 2, 3])]), "bad answer: malformed box"),
        (answer(predictions=[prediction(box=[1, 2, 3, "4"])]), "bad answer: malformed box"),
        (answer(predictions=[prediction(box=None)]), "bad answer: malformed box"),
    ],
)
def test_a_bad_answer_is_named(body: object, kind: str) -> None:
    assert wrong(body) == kind


def test_a_probability_of_one_and_boxes_are_right() -> None:
    assert read(answer(predictions=[prediction(probability=1.0, box=[1, 2.5, 3, 4])])).label == "cat"


def test_masks_come_with_the_largest_first() -> None:
    several = [prediction("cat", 0.2, area=0.6), prediction("dog", 0.9, area=0.3)]
    assert read(answer(predictions=several)).label == "cat"


def test_another_models_answer_is_none() -> None:
    assert wrong(answer(), model="digits") == "bad answer: another model's"
    assert read(answer(), model="").label == "cat"


@pytest.mark.parametrize(
    ("count", "top", "bounds", "right"),
    [
        (1, 1, None, True),
        (2, 1, None, False),
        (1, 2, None, True),  # unknown: a model of one class gives no more
        (9, None, None, True),
        (3, None, (3, 3), True),
        (2, None, (3, 3), False),
        (4, None, (3, 3), False),
        (0, None, (0, 5), True),
        (5, None, (0, 5), True),
        (6, None, (0, 5), False),
        (6, 6, (0, 5), False),  # the server knows better
    ],
)
def test_the_number_of_predictions(
    count: int, top: int | None, bounds: tuple[int, int] | None, right: bool
) -> None:
    counts = {"m": bounds} if bounds else {"another": (7, 7)}
    body, by = answer(predictions=[prediction()] * count), reader(top=top, counts=counts)
    if right:
        assert read(body, by).label == ("cat" if count else "(nothing)")
    else:
        assert wrong(body, by) == "bad answer: wrong number of predictions"


def test_a_wrong_number_says_what_would_be_right() -> None:
    for bounds, said in (((3, 3), "1, not 3"), ((2, 5), "1, not 2 to 5")):
        with pytest.raises(WrongAnswer) as caught:
            read(answer(), reader(counts={"m": bounds}))
        assert caught.value.message == said


@pytest.mark.parametrize("check", ["predictions", "label", "status"])
@pytest.mark.parametrize("status", [199, 300, 404])
def test_a_status_outside_200_is_wrong_however_good_the_body(check: str, status: int) -> None:
    by = reader(check=check, label="predictions[0].label" if check == "label" else "")
    assert wrong(answer(), by, status=status) == f"http {status}"
    assert read(answer(), by, status=200) == read(answer(), by, status=299)


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (503, b'{"error": {"code": "overloaded", "message": "full"}}', ("http 503 overloaded", "full")),
        (404, b'{"error": "x"}', ("http 404", '{"error": "x"}')),
        (
            400,
            b'{"error": {"code": 1, "message": "x"}}',
            ("http 400", '{"error": {"code": 1, "message": "x"}}'),
        ),
        (502, b"<html>\xff" + b"x" * 500, ("http 502", "<html>\ufffd" + "x" * 193)),
        (202, json.dumps(answer()).encode(), ("http 202", json.dumps(answer()))),
    ],
)
def test_a_refusal_is_told_by_status_code_and_message(
    status: int, content: bytes, expected: tuple[str, str]
) -> None:
    with pytest.raises(WrongAnswer) as caught:
        reader().read(status, content, "")
    assert (caught.value.kind, caught.value.message) == expected


def test_only_the_status_counts_where_nothing_else_is_known() -> None:
    assert read(b"<html>", reader(check="status"), status=204) == ServerAnswer("", "", 0, {})
    refusal = {"error": {"code": "full", "message": "x"}}
    assert wrong(refusal, reader(check="status"), status=503) == "http 503"
    assert read(b"", reader(check="status"), status=202) == ServerAnswer()


@pytest.mark.parametrize(
    ("body", "label"),
    [
        ({"a": {"b": "cat"}}, "cat"),
        ({"a": {"b": ""}}, ""),
        ({"a": {"b": 7}}, "7"),
        ({"a": {"b": [0.1, 0.7, 0.2]}}, "1"),
        ({"a": {"b": [3, 1, 3]}}, "0"),
    ],
)
def test_another_services_label(body: object, label: str) -> None:
    assert read(body, reader(label="a.b")) == ServerAnswer(label=label)


@pytest.mark.parametrize("found", [None, {}, [], ["cat"], [0.1, "x"], 0.5, {"b": 1}])
def test_a_label_must_be_where_it_is_said_to_be(found: object) -> None:
    kind = "bad answer: no label where --label says"
    assert wrong({"a": found}, reader(label="a")) == kind
    assert wrong({"a": found}, reader(label="b")) == kind


def test_an_expression_that_fails_on_an_answer_finds_no_label() -> None:
    assert read({"a": [1, 2]}, reader(label="max(a)")) == ServerAnswer(label="2")
    assert wrong({"a": "x"}, reader(label="max(a)")) == "bad answer: no label where --label says"


def test_a_label_needs_json() -> None:
    assert wrong(b"cat", reader(label="a")) == "bad answer: not JSON"


def test_a_job_is_polled_where_location_says() -> None:
    assert reader().location(202, b"", "/predictions/x") == "/predictions/x"


@pytest.mark.parametrize(
    ("status", "location", "kind"),
    [(200, "/x", "http 200"), (202, None, "bad answer: 202 without Location"), (503, "/x", "http 503 full")],
)
def test_a_job_that_was_not_accepted(status: int, location: str | None, kind: str) -> None:
    body = b'{"error": {"code": "full", "message": ""}}' if status == 503 else b"{}"
    with pytest.raises(WrongAnswer) as caught:
        reader().location(status, body, location)
    assert caught.value.kind == kind


ODD: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 0, 10**30, 0.5, 1e300, "", "\N{CAT}", [], [[]], {}, {"": 1e300}]
)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.binary(max_size=20)
    | st.fixed_dictionaries({}, optional=dict.fromkeys([*answer(), "batch_size"], ODD)),
    st.sampled_from(["", "a", "max(@)", "predictions[0]", "sort_by(predictions, &label)"]),
)
def test_whatever_a_server_says_becomes_a_record(changes: bytes | dict[str, object], label: str) -> None:
    body = changes if isinstance(changes, bytes) else answer(timings_ms=changes, **changes)
    try:
        found = read(body, reader(label=label))
    except WrongAnswer as error:
        found = ServerAnswer(label=error.kind, id=error.message)
    record = Record(0, "a", "", 0.0, label=found.label, id=found.id, batch_size=found.batch_size)
    record.stages_ms = found.stages_ms
    assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
