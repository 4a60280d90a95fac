"""What somebody who can write to Redis puts there: it costs its own job or model an answer, and no other.

Jobs against a model server's worker; results, pending keys, cards, states and labels against the web tier.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis
from flask import Flask
from msgspec.structs import replace

from broker import codec
from broker.keys import Keys
from pictures import rle
from settings import Settings
from tests.support import fakes
from tests.support.collector import SAMPLED, collecting, exporting
from tests.support.fakes import (
    CARD,
    MODEL,
    READY,
    FakeEngine,
    enqueue,
    is_pending,
    job,
    lease,
    result,
)
from tests.support.service import disconnect
from web.app import create_app
from web.history import Sampler

ID = "00000000-0000-4000-8000-000000000000"
DEEP = '{"a":' * 5000 + "1" + "}" * 5000


def _job(**changes: object) -> bytes:
    """A sound job's JSON with other values; those of `...` are left out."""
    sound = json.loads(codec.encode_job(job()))
    return json.dumps(
        {name: value for name, value in {**sound, "id": ID, **changes}.items() if value is not ...},
        separators=(",", ":"),
    ).encode()


JOBS = {
    "no JSON": b"\x80\x04\x95 a pickle",
    "nothing": b"",
    "no object": b"[]",
    "not UTF-8": b'{"id":"' + ID.encode() + b'","image":"\xff"}',
    "deeply nested": f'{{"id":"{ID}","x":{DEEP}}}'.encode(),
    "no picture": _job(image=...),
    "a picture of another type": _job(image={"$ref": "/etc/passwd"}),
    "no base64": _job(image="....", shape=[1, 3, 1]),
    "more pixels than there are": _job(shape=[1_000_000, 1_000_000, 3]),
    "no pixels": _job(shape=[0, 0, 0], image=""),
    "a negative shape": _job(shape=[-2, -2, 1]),
    "another input": _job(shape=[1, 4, 1], input="4-1-1-stretch"),
    "an id of another type": _job(id=5),
    "a photo without pixels": _job(original_size=[0, 0]),
    "a photo of another world": _job(original_size=[10**12, 10**12]),
    "a deadline that is no number": _job(deadline="NaN"),
    "a deadline beyond all time": _job(deadline=1e300),
    "accepted before all time": _job(accepted=-1e300),
    "all labels and more": _job(top=10**12),
    "a channel that is a pattern": _job(reply_to="*"),
    "a notice of a megabyte": _job(notice="x" * 1_000_000),
    "a trace that is none": _job(traceparent="\r\nINFO forged"),
}


TRACED_JOBS = {
    "a trace that is none": _job(traceparent="\r\nINFO forged"),
    "a trace cut short": _job(traceparent="00"),
    "flags that are no number": _job(traceparent=SAMPLED[:-2] + "zz"),
    "a trace and all that is left": _job(traceparent=SAMPLED + "-" + "x" * 100_000),
    "accepted before all time": _job(traceparent=SAMPLED, accepted=-1e300),
    "accepted before 1970": _job(traceparent=SAMPLED, accepted=-5),
    "accepted beyond all time": _job(traceparent=SAMPLED, accepted=1e15),
}


@pytest.mark.parametrize("name", TRACED_JOBS)
def test_a_hostile_job_costs_nobody_else_an_answer_or_a_span_where_traces_are_on(
    client: redis.Redis, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    engine = FakeEngine()
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    client.rpush(keys.of(MODEL).queue, TRACED_JOBS[name])
    sound_trace = "1" * 32
    with collecting() as collector, exporting(collector.url, monkeypatch):
        traced = replace(job(deadline_in_s=300), traceparent=f"00-{sound_trace}-{'2' * 16}-01")
        (sound,) = enqueue(client, keys, traced)
        fakes.step(worker)
        (queue,) = collector.each(sound_trace, f"queue {MODEL}")
    assert not is_pending(client, keys, sound.id)
    begin, end = queue.times
    assert 0 <= end - begin < 60e9


@pytest.mark.parametrize("name", JOBS)
def test_a_hostile_job_costs_nobody_else_an_answer(
    client: redis.Redis, keys: Keys, tmp_path: Path, name: str
) -> None:
    engine = FakeEngine()
    worker = fakes.worker(client, keys, engine, tmp_path)
    worker.pipeline.engine = engine
    lease_id = worker.lease.worker
    client.set(keys.of(MODEL).result(ID), codec.encode_pending(0, 9e10))
    client.rpush(keys.of(MODEL).queue, JOBS[name])
    (sound,) = enqueue(client, keys, job(value=255, deadline_in_s=300))
    for _ in range(3):
        if not is_pending(client, keys, sound.id):
            break
        fakes.step(worker)
    assert result(client, keys, sound.id).predictions[0].label == "bright"
    assert not client.exists(keys.of(MODEL).queue, keys.of(MODEL).claims(lease_id))
    assert worker.lease.worker == lease_id  # it did not lose its lease over it


def _result(**changes: object) -> bytes:
    return json.dumps({"id": ID, "model": MODEL, "model_version": "v1", **changes}).encode()


_TERA = rle._written(np.array([10**12]))
MASK = {"size": [2, 2], "form": "rle", "counts": "x"}
PLACE = {"class_id": "0", "label": "<script>alert(1)</script>\u202e\x1b[31m", "probability": 0.5}
RESULTS: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "no JSON": (b"\x80\x04\x95 a pickle", (500,)),
    "nothing": (b"", (500,)),
    "pending for ever": (b"pending", (500,)),
    "pending since no time": (b"pending q nan nan", (500,)),
    "pending beyond all time": (b"pending q 0 1e300", (500,)),
    "another type": (b"[]", (500,)),
    "deeply nested": (f'{{"id":"{ID}","model":"m","model_version":"","result":{DEEP}}}'.encode(), (200, 500)),
    "markup as a label": (_result(predictions=[PLACE]), (200,)),
    "a picture without pixels": (_result(image={"shape": [9, 9, 3], "data": ""}), (500,)),
    "a picture of another world": (_result(image={"shape": [10**6, 10**6, 3], "data": "AAAA"}), (500,)),
    "a mask of another world": (
        _result(predictions=[{**PLACE, "mask": {**MASK, "size": [10**6, 10**6], "form": "png"}}]),
        (500,),
    ),
    "a mask of a terapixel in seven letters": (
        _result(predictions=[{**PLACE, "mask": {"size": [10**6, 10**6], "form": "png", "counts": _TERA}}]),
        (500,),
    ),
    "an error's code of nobody": (_result(error={"code": "root", "message": "x"}), (500,)),
}


@pytest.fixture
def app(redis_url: str, client: redis.Redis, keys: Keys) -> Iterator[Flask]:
    """A web tier beside a live worker's lease."""
    lease(client, keys).register(READY)
    made = create_app(Settings.from_env({"REDIS_URL": redis_url, "MODELS": MODEL}))
    yield made
    disconnect(made)


@pytest.mark.parametrize("name", RESULTS)
def test_a_hostile_result_is_answered_and_is_no_markup(
    app: Flask, client: redis.Redis, keys: Keys, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    value, statuses = RESULTS[name]
    client.set(keys.of(MODEL).result(ID), value)
    response = app.test_client().get(f"/predictions/{ID}?model={MODEL}")
    assert response.status_code in statuses, response.get_data(as_text=True)[:300]
    assert response.mimetype == "application/json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "this is a bug" not in caplog.text
    assert app.test_client().get("/models").status_code == 200


CARDS = {
    "no JSON": b"\x80\x04\x95 a pickle",
    "deeply nested": DEEP.encode(),
    "another type": b"[]",
    "an input of another world": json.dumps(
        {**msgspec.to_builtins(CARD), "input": {**msgspec.to_builtins(CARD.input), "width": 10**9}}
    ).encode(),
    "an input of another type": json.dumps({**msgspec.to_builtins(CARD), "input": "large"}).encode(),
    "more pictures than a number says": json.dumps(
        {**msgspec.to_builtins(READY), "pictures": 10**400}
    ).encode(),
}


@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_or_state_hides_its_model_alone(
    app: Flask, client: redis.Redis, keys: Keys, name: str
) -> None:
    other = keys.of("other")
    client.sadd(keys.models, "other")
    client.set(other.card, CARDS[name])
    client.hset(other.states, "w", CARDS[name])
    client.zadd(other.workers, {"w": 9e9})
    told = app.test_client().get("/models").get_json()["models"]
    assert [each["model"] for each in told if each["state"] != "no worker"] == [MODEL]


def test_more_pictures_than_a_number_says_cost_the_last_hour_nothing(
    app: Flask, client: redis.Redis, keys: Keys
) -> None:
    other, jobs = keys.of("other"), app.extensions["jobs"]
    client.sadd(keys.models, "other")
    client.set(other.card, json.dumps({**msgspec.to_builtins(CARD), "model": "other"}))
    client.zadd(other.workers, {"w": 9e9})
    sampler = Sampler(jobs)
    for pictures in (0, 10**400):
        client.hset(other.states, "w", json.dumps({**msgspec.to_builtins(READY), "pictures": pictures}))
        jobs.registry.models(fresh=True)
        sample = sampler.sample()
        assert sample is not None
        assert sample.models[MODEL].workers == 1
