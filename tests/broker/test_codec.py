"""The wire format: golden bytes, and the refusal of everything else."""

import json

import msgspec
import numpy as np
import pytest

from broker import codec
from broker.errors import MalformedMessage
from broker.messages import Card, Fit, InputSpec, Job, Prediction, Result, State, Timings, WorkerState

JOB = Job(
    id="11111111-2222-4333-8444-555555555555",
    image=np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    accepted_at=1700000000.25,
    deadline=1700000010.5,
    reply_to="web-1",
    original_size=(640, 480),
    top=5,
    traceparent=None,
)

GOLDEN_JOB = (
    b'{"id":"11111111-2222-4333-8444-555555555555","image":"AAECAwQF",'
    b'"accepted":1700000000.25,"deadline":1700000010.5,"reply_to":"web-1","original_size":[640,480],'
    b'"top":5,"traceparent":null,"shape":[1,2,3]}'
)


def test_a_job_s_bytes_are_these() -> None:
    # A change here breaks model servers and frontends of different releases that share a queue.
    assert codec.encode_job(JOB) == GOLDEN_JOB


def test_the_tag_of_the_input_stands_second_and_the_notice_last() -> None:
    job = msgspec.structs.replace(JOB, input="2-1-3-crop", notice="n")
    payload = codec.encode_job(job)
    assert payload.startswith(b'{"id":"11111111-2222-4333-8444-555555555555","input":"2-1-3-crop","image":"')
    decoded = codec.decode_job(payload)
    assert (decoded.input, decoded.notice) == ("2-1-3-crop", "n")


def test_a_lane_stands_where_the_scripts_read_it_and_is_read_from_what_is_no_job() -> None:
    payload = codec.encode_job(msgspec.structs.replace(JOB, polled=True, lane="ann@300", input="2-1-3-crop"))
    assert payload.startswith(
        b'{"id":"11111111-2222-4333-8444-555555555555","polled":true,"lane":"ann@300","input":"2-1-3-crop",'
    )
    assert codec.decode_job(payload).owner == "ann"
    assert [codec.lane_of(each) for each in (payload[:-9], GOLDEN_JOB, b"")] == ["ann@300", "", ""]


def test_the_id_stands_where_the_scripts_read_it() -> None:
    start = codec.ID_START
    assert GOLDEN_JOB[start : start + codec.ID_LENGTH].decode() == JOB.id


EARLIER_JOB = GOLDEN_JOB.replace(b',"shape":[1,2,3]', b"").replace(b',"acc', b',"shape":[1,2,3],"acc')
"""As releases before wrote it, in another order."""


@pytest.mark.parametrize("payload", [GOLDEN_JOB, EARLIER_JOB])
def test_a_job_comes_back_whole(payload: bytes) -> None:
    decoded = codec.decode_job(payload)
    assert np.array_equal(decoded.image, JOB.image)
    assert decoded.image.dtype == np.uint8
    for field in msgspec.structs.fields(Job):
        if field.name != "image":
            assert getattr(decoded, field.name) == getattr(JOB, field.name)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b'{"id":"x"}',
        GOLDEN_JOB[:-1],
        GOLDEN_JOB.replace(b'"AAECAwQF"', b'"AAEC*wQF"'),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b'"AAEC"'),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b'"AAECAwQ"'),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b'"AAEC\xc3\xa4wQF"'),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b'"AAEC\\u0041wQF"'),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b"[1,2,3]"),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b"12345678"),
        GOLDEN_JOB.replace(b'"AAECAwQF"', b"null"),
        GOLDEN_JOB.replace(b',"shape":[1,2,3]', b""),
        GOLDEN_JOB.replace(b"[1,2,3]", b"[1,2]"),
        GOLDEN_JOB.replace(b"[1,2,3]", b"[-1,-2,3]"),
        GOLDEN_JOB.replace(b"1700000010.5", b'"soon"'),
    ],
)
def test_what_is_no_job_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_job(payload)


def test_an_image_keeps_its_shape_in_a_copy_of_a_job_too() -> None:
    taller = msgspec.structs.replace(JOB, image=np.zeros((4, 2, 3), np.uint8))
    assert codec.decode_job(codec.encode_job(taller)).image.shape == (4, 2, 3)


def test_a_224_pixel_picture_takes_200_704_bytes_and_little_more() -> None:
    job = msgspec.structs.replace(JOB, image=np.zeros((224, 224, 3), np.uint8))
    assert 200_704 < len(codec.encode_job(job)) < 200_704 + 400


def test_a_result_comes_back_whole() -> None:
    result = Result(
        id=JOB.id,
        model="resnet50",
        model_version="abc",
        predictions=(Prediction("Egyptian_cat", "n02124075", 0.93),),
        notice="n",
        timings_ms=Timings(1.5, 0.5, 20.0),
        batch_size=7,
        attempts=1,
    )
    assert codec.decode(codec.encode(result), Result) == result
    assert json.loads(codec.encode(result))["timings_ms"] == {"waiting": 1.5, "batch": 0.5, "model": 20.0}


def test_a_box_is_there_only_where_a_prediction_has_one() -> None:
    plain, boxed = Prediction("dog", "16", 0.5), Prediction("dog", "16", 0.5, (1, 2, 30, 40))
    result = Result(JOB.id, "yolo", "abc", predictions=(plain, boxed))
    sent = codec.encode(result)
    assert b'[{"label":"dog","class_id":"16","probability":0.5},' in sent
    assert b'{"label":"dog","class_id":"16","probability":0.5,"box":[1,2,30,40]}]' in sent
    assert codec.decode(sent, Result) == result
    for box in (b"[1,2,3]", b"[1,2,3,4,5]", b'"all"', b"[1.5,2,3,4]"):
        with pytest.raises(MalformedMessage):
            codec.decode(sent.replace(b"[1,2,30,40]", box), Result)


def test_card_and_state_come_back_whole() -> None:
    card = Card(
        "digits", "classification", InputSpec(28, 28, 1, Fit.INK), 10, 3, 10, "tensorflow", "fp32", "w", "v"
    )
    state = State(WorkerState.FAILED, "abc", reason="no weights", input="28-28-1-ink", since=1.5, card=card)
    assert codec.decode(codec.encode(card), Card) == card
    assert codec.decode(codec.encode(state), State) == state


def test_a_card_without_one_of_its_fields_is_refused() -> None:
    card = codec.encode(
        Card("m", "classification", InputSpec(4, 4, 3, Fit.CROP), 10, 3, 10, "e", "fp32", "w", "v")
    )
    assert b',"model_version":"v"' in card
    with pytest.raises(MalformedMessage):
        codec.decode(card.replace(b',"model_version":"v"', b""), Card)


def test_a_state_that_nobody_knows_is_refused() -> None:
    with pytest.raises(MalformedMessage):
        codec.decode(b'{"state":"tired","version":"1"}', State)
