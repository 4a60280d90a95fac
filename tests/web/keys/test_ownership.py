"""With API keys a job is its key's, and so is a request's name; a lane is the key and its priority."""

from collections.abc import Callable
from typing import cast

import grpc
import pytest
import redis

from broker import codec
from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.web.rpc.client import METHODS, RpcClient, encoded

Add = Callable[..., dict[str, str]]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"API_KEYS": "required"}


def _submit(service: Service, key: dict[str, str], **fields: str) -> str:
    """The address of a job that is polled."""
    headers = {**key, "Prefer": "respond-async", **fields}
    accepted = service.client.post("/predict", data=form(png(0)), headers=headers)
    assert accepted.status_code == 202
    return accepted.headers["Location"]


def test_a_job_is_polled_and_ended_with_the_key_that_sent_it(service: Service, add: Add) -> None:
    ann, ben = add("ann"), add("ben")
    address = _submit(service, ann)
    never = service.client.get("/predictions/12345678-1234-4234-8234-123456789012", headers=ben)
    for method, path in (
        ("GET", address),
        ("GET", f"{address}&wait=1"),
        ("GET", address.replace("?", "/events?")),
        ("DELETE", address),
    ):
        refused = service.client.open(path, method=method, headers=ben)
        assert (refused.status_code, refused.get_json()["error"]) == (404, never.get_json()["error"])
    assert service.client.get(address, headers=ann).status_code == 202
    service.start_worker()
    eventually(lambda: service.client.get(address, headers=ann).status_code == 200)
    events = service.client.get(address.replace("?", "/events?"), headers=ann)
    assert b"event: done" in events.data
    assert service.client.get(address, headers=ben).status_code == 404
    assert service.client.delete(address, headers=ann).status_code == 204


def test_a_stream_of_a_pending_job_is_its_key_s_to_the_end(service: Service, add: Add) -> None:
    ann = add("ann")
    address = _submit(service, ann)
    events = service.client.get(address.replace("?", "/events?"), headers=ann)
    chunks = (bytes(each) for each in events.response)  # type: ignore[arg-type]
    assert b"event: pending" in next(chunks)
    service.start_worker()
    assert b"event: done" in b"".join(chunks)


def test_names_of_requests_are_each_key_s_own(service: Service, add: Add) -> None:
    ann, ben = add("ann"), add("ben")
    named = {"Idempotency-Key": "one"}
    assert _submit(service, ann, **named) == _submit(service, ann, **named)
    assert _submit(service, ann, **named) != _submit(service, ben, **named)


@pytest.mark.parametrize(
    ("priority", "lane"),
    [("", "ann@40"), ("low", "ann@10"), ("normal", "ann@40"), ("high", "ann@160"), ("0", "ann@40")],
)
def test_a_lane_is_the_key_and_its_weight_by_priority(
    priority: str, lane: str, service: Service, add: Add, client: redis.Redis, keys: Keys
) -> None:
    ann = add("ann", weight=40, priority="high")
    in_form = form(png(0)) | ({"priority": priority} if priority else {})
    for query, body in ((f"?priority={priority}", form(png(0))), ("", in_form)):
        headers = {**ann, "Prefer": "respond-async"}
        assert service.client.post(f"/predict{query}", data=body, headers=headers).status_code == 202
        queue = keys.of(MODEL).lane(lane, polled=True)
        (job,) = client.lrange(queue, 0, -1)
        assert codec.lane_of(cast("bytes", job)) == lane
        client.delete(queue)


@pytest.mark.usefixtures("running")
def test_a_priority_above_the_key_s_is_refused_in_every_dialect(
    service: Service, rpc: RpcClient, add: Add
) -> None:
    ann = add("ann", priority="normal")
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}
    for path, sent in (
        ("/predict?priority=high", {"data": form(png(0))}),
        ("/predict", {"json": {"image": "AA==", "priority": "high"}}),
        ("/run", {"data": form(png(0)) | {"priority": "high"}}),
        (f"/predictions/{MODEL}?priority=high", {"data": form(png(0))}),
        (f"/v1/models/{MODEL}:predict?priority=high", {"json": {"instances": [{"b64": "AA=="}]}}),
        (f"/v2/models/{MODEL}/infer", {"json": {"inputs": [tensor], "parameters": {"priority": "high"}}}),
    ):
        refused = service.client.post(path, headers=ann, **sent)
        assert (refused.status_code, b"priority=normal at most" in refused.data) == (403, True), path
    with pytest.raises(grpc.RpcError) as error:
        rpc.method("ModelInfer")(
            METHODS["ModelInfer"][1](**encoded(png(0), parameters={"priority": {"string_param": "high"}})),
            metadata=[("x-api-key", ann["X-API-Key"])],
            timeout=30,
        )
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("environment", [{}])
def test_without_keys_all_is_normal(service: Service) -> None:
    for priority, status in (("normal", 200), ("low", 400), ("high", 400), ("9", 400)):
        answer = service.client.post(f"/predict?priority={priority}", data=form(png(0)))
        assert answer.status_code == status, priority


@pytest.mark.parametrize("environment", [{}])
def test_a_request_may_give_itself_less_time_and_no_more(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    for timeout in ("0", "-1", "nan", "soon"):
        assert service.client.post(f"/predict?timeout={timeout}", data=form(png(0))).status_code == 400
    late = service.client.post("/predict?timeout=0.05", data=form(png(0)))
    assert (late.status_code, "0.05 s" in late.get_json()["error"]["message"]) == (504, True)
    for timeout, most in (("30", 30.0), ("80000", 300.0)):
        accepted = service.client.post(
            "/predict", json={"image": "AA==", "timeout": float(timeout)}, headers={"Prefer": "respond-async"}
        )
        assert accepted.status_code == 400  # it is no picture: the field was taken
        accepted = service.client.post(
            f"/predict?timeout={timeout}", data=form(png(0)), headers={"Prefer": "respond-async"}
        )
        assert accepted.status_code == 202
        job = codec.decode_job(cast("bytes", client.lrange(keys.of(MODEL).polled, -1, -1)[0]))
        assert most - 1 < job.deadline - job.accepted_at <= most
