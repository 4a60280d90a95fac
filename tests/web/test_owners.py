"""Whose pictures they are: owners share no job, no name, no kept result; no answer names them."""

import time
from functools import partial

import redis
from flask import Flask

from broker.keys import Keys
from broker.messages import Result
from broker.producer import StoredJob
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from web.cached_inference import digest_of
from web.idempotency import IdempotentRequest
from web.inference import Caller, Inference, Polled, SubmittedResult
from web.jobs import JobClient, JobOptions
from web.routes import predict
from web.uploads.reader import Upload

UPLOAD = Upload([png(255)], {}, [])


def _caller(owner: str, *, polled: bool = False, key: str = "") -> Caller:
    lane = f"{owner}@100" if owner else ""
    options = JobOptions(time.monotonic(), time.monotonic() + 15, polled=polled, lane=lane)
    return Caller(options, lambda: False, IdempotentRequest(key, "digest") if key else None)


def _asked(app: Flask, caller: Caller) -> SubmittedResult:
    inference: Inference = app.extensions["inference"]
    with app.test_request_context():
        (result,) = inference.run(UPLOAD, caller)
    return result


def _id(result: SubmittedResult) -> str:
    assert isinstance(result, Result | Polled)
    return result.id


def test_a_polled_job_is_its_owner_s_alone_until_its_end(running: Service) -> None:
    jobs: JobClient = running.app.extensions["jobs"]
    job_id = _id(_asked(running.app, _caller("ann", polled=True)))
    follow = partial(jobs.follow, MODEL, job_id, is_client_gone=lambda: False)
    until = time.monotonic() + 15
    assert follow(until=until, owner="bob") is None
    stored = follow(until=until, owner="ann")
    assert isinstance(stored, StoredJob)
    assert stored.result.owner == "ann"
    with running.app.test_request_context():
        assert "ann" not in predict.one(stored).get_data(as_text=True)
    assert not jobs.delete(MODEL, job_id, owner="bob")
    assert not jobs.delete(MODEL, job_id)
    assert running.client.get(f"/predictions/{job_id}").status_code == 404
    assert jobs.delete(MODEL, job_id, owner="ann")


def test_owners_share_no_idempotency_key(service: Service, client: redis.Redis, keys: Keys) -> None:
    asked = [_id(_asked(service.app, _caller(each, polled=True, key="k"))) for each in ("ann", "bob", "")]
    assert len(set(asked)) == 3
    again = _asked(service.app, _caller("ann", polled=True, key="k"))
    assert _id(again) == asked[0]
    # No key that a client may send spells an owner's name.
    assert client.exists(keys.of(MODEL).request("ann k:0"))


def test_owners_share_no_kept_result(service: Service) -> None:
    jobs: JobClient = service.app.extensions["jobs"]
    choice = jobs.models.choose(None)
    options = [_caller(owner).options for owner in ("ann", "bob", "", "ann")]
    first, *others, again = [digest_of(choice, png(255), each, top=1) for each in options]
    assert again == first
    assert len({first, *others}) == 3
