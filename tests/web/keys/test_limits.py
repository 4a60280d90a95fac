"""What a key's limits come to over HTTP and gRPC: its words, its fields, and what is given back."""

import contextlib
import itertools
import re
import threading
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import redis

from broker.api_keys import ApiKey
from broker.key_limits import waiting_member
from broker.keys import Keys
from broker.messages import Result
from broker.producer import Producer
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.web.rpc.client import METHODS, RpcClient, encoded
from web.jobs import JobClient
from web.keys import access
from web.keys.guard import Guard
from web.keys.http_guard import LoopGuard
from web.metrics import _LIMITED
from web.overload import RecentRefusals
from web.request_places import RequestPlaces
from web.routes.predict import turned_away
from web.server.refusals import RequestHead

Add = Callable[..., dict[str, str]]

SLOW = 0.001
"""Pictures a second: none comes back during a test."""


@pytest.fixture
def environment() -> dict[str, str]:
    return {"API_KEYS": "required", "QUEUE_LIMIT": "8"}


def _code(answer: Any) -> tuple[int, str]:  # noqa: ANN401 - Werkzeug's
    body = answer.get_json()
    return answer.status_code, body.get("error", {}).get("code", "") if "error" in body else ""


@pytest.mark.usefixtures("running")
def test_pictures_are_counted_and_refused_with_what_is_left(service: Service, add: Add) -> None:
    ann, ben = add("ann", rate=SLOW, burst=3), add("ben")
    first = service.client.post("/predict", data=form(png(0), png(0)), headers=ann)
    assert first.status_code == 200
    assert first.headers["RateLimit-Policy"] == '"pictures";q=3;w=3000'
    assert re.fullmatch(r'"pictures";r=1;t=(1999|2000)', first.headers["RateLimit"])
    refused = service.client.post("/predict", data=form(png(0), png(0)), headers=ann)
    assert _code(refused) == (429, "rate_limited")
    assert 900 <= int(refused.headers["Retry-After"]) <= 1000
    assert refused.headers["RateLimit"].startswith('"pictures";r=1;')
    assert service.client.post("/predict", data=form(png(0)), headers=ann).status_code == 200
    too_many = service.client.post("/predict", data=form(*[png(0)] * 4), headers=ann)
    assert _code(too_many) == (400, "bad_request")
    assert "may have at most 3 at once" in too_many.get_json()["error"]["message"]
    free = service.client.post("/predict", data=form(*[png(0)] * 4), headers=ben)
    assert (free.status_code, "RateLimit" in free.headers) == (200, False)
    assert "RateLimit" not in service.client.get("/models", headers=ann).headers


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_every_dialect_counts_and_refuses_in_its_own_shape(
    service: Service, rpc: RpcClient, add: Add
) -> None:
    ann = add("ann", rate=SLOW, burst=1)
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["AA=="]}
    dialects: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("/run", lambda: {"data": form(png(0))}),
        ("/infer", lambda: {"data": form(png(0))}),
        (f"/predictions/{MODEL}", lambda: {"data": form(png(0))}),
        (f"/v1/models/{MODEL}:predict", lambda: {"json": {"instances": [{"b64": "AA=="}]}}),
        (f"/v2/models/{MODEL}/infer", lambda: {"json": {"inputs": [tensor]}}),
    ]
    for path, sent in dialects:
        statuses = [service.client.post(path, headers=ann, **sent()).status_code for _ in range(2)]
        assert statuses[1] == 429, path
        service.app.extensions["jobs"].api_keys.limiter.store.give_back("ann", [], tokens=1)
    ask = rpc.method("ModelInfer")
    message, metadata = METHODS["ModelInfer"][1](**encoded(png(0))), [("x-api-key", ann["X-API-Key"])]
    assert ask(message, metadata=metadata, timeout=30).model_name == MODEL
    with pytest.raises(grpc.RpcError) as error:
        ask(message, metadata=metadata, timeout=30)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.value.trailing_metadata())["retry-after"]) > 900


def test_jobs_that_have_not_ended_are_counted_and_their_end_is_seen(
    service: Service, add: Add, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each look is a quarter of a second after the last.
    limiter = service.app.extensions["jobs"].api_keys.limiter
    monkeypatch.setattr(limiter, "_monotonic", itertools.count(0.0, 0.25).__next__)
    ann = add("ann", jobs=2)

    def submit() -> Any:  # noqa: ANN401 - Werkzeug's
        return service.client.post("/predict", data=form(png(0)), headers={**ann, "Prefer": "respond-async"})

    first, second, third = submit(), submit(), submit()
    assert (first.status_code, second.status_code, _code(third)) == (202, 202, (429, "too_many_jobs"))
    assert second.headers["RateLimit-Policy"] == '"jobs";q=2;qu="concurrent-requests"'
    assert (second.headers["RateLimit"], third.headers["Retry-After"]) == ('"jobs";r=0', "1")
    assert service.client.delete(first.headers["Location"], headers=ann).status_code == 204
    assert submit().status_code == 202
    assert submit().status_code == 429
    service.start_worker()
    eventually(lambda: submit().status_code == 202)  # the model server has ended some
    # One that is waited for gives its place back at its end, also where it fails.
    eventually(lambda: service.client.post("/predict", data=form(png(0)), headers=ann).status_code == 200)
    client.delete(keys.of_api_key("ann").jobs)
    for picture in (png(0), b"no picture"):
        for _ in range(3):
            assert service.client.post("/predict", data=form(picture), headers=ann).status_code in (200, 400)
    assert client.zcard(keys.of_api_key("ann").jobs) == 0


def test_what_is_refused_for_now_costs_no_token_and_what_is_wrong_does(
    service: Service, add: Add, client: redis.Redis, keys: Keys
) -> None:
    ann = add("ann", rate=SLOW, burst=2)
    client.rpush(keys.of(MODEL).queue, *["a job"] * 8)
    for _ in range(3):
        assert service.client.post("/predict", data=form(png(0)), headers=ann).status_code == 503
    client.delete(keys.of(MODEL).queue)
    service.app.extensions["jobs"].refusals = RecentRefusals()
    statuses = [
        service.client.post("/predict", data=form(b"no picture"), headers=ann).status_code for _ in range(3)
    ]
    assert statuses == [400, 400, 429]


def test_a_key_that_was_limited_a_moment_ago_is_refused_without_a_thread(service: Service, add: Add) -> None:
    ann, ben = add("ann", rate=SLOW, burst=1), add("ben")
    jobs: JobClient = service.app.extensions["jobs"]
    assert jobs.api_keys is not None
    loop = LoopGuard(service.app, Guard(jobs.api_keys.known))

    def refused(path: str, key: dict[str, str], method: str = "POST") -> str:
        head = RequestHead(method=method, path=path, x_api_key=key["X-API-Key"], has_preference=True)
        refusal = turned_away(jobs, _Arrival(head), guard=loop)  # type: ignore[arg-type]
        return refusal.code if refusal is not None else ""

    for _ in range(2):
        answer = service.client.post("/predict", data=form(b"no picture"), headers=ann)
    assert answer.status_code == 429
    before = _LIMITED.labels("ann", "rate_limited")._value.get()
    paths = ["/predict", "/infer", f"/v2/models/{MODEL}/infer", f"/v1/models/{MODEL}:predict"]
    assert [refused(path, ann) for path in paths] == ["rate_limited"] * 4
    assert _LIMITED.labels("ann", "rate_limited")._value.get() == before + 4
    assert [refused(path, ben) for path in paths] == [""] * 4
    assert [refused("/models", ann, "GET"), refused("/v2/repository/index", ann)] == ["", ""]


class _Arrival:
    """A whole request without a body."""

    def __init__(self, head: RequestHead) -> None:
        self.head = head

    def mentions(self, _: bytes) -> bool:
        return False


def test_one_key_has_half_of_a_process_s_places(service: Service, add: Add) -> None:
    ann, ben = add("ann"), add("ben")
    jobs: JobClient = service.app.extensions["jobs"]
    jobs.places = RequestPlaces(4, jobs.registry, jobs.refusals, has_owners=True)
    with contextlib.ExitStack() as held:
        access.carry(ApiKey(name="ann", secrets=(), created_at=0))
        held.enter_context(jobs.places.slot())
        held.enter_context(jobs.places.slot())
        access.carry(None)
        refused = service.client.post("/predict", data=form(b"no picture"), headers=ann)
        assert _code(refused) == (503, "overloaded")
        assert service.client.post("/predict", data=form(b"no picture"), headers=ben).status_code == 400
    jobs.refusals = RecentRefusals()
    assert service.client.post("/predict", data=form(b"no picture"), headers=ann).status_code == 400


def test_a_key_lists_its_own_polled_jobs(service: Service, add: Add) -> None:
    ann, ben = add("ann"), add("ben")
    polled = {"Prefer": "respond-async"}
    accepted = [
        service.client.post("/predict", data=form(png(0)), headers=ann | polled).get_json()["id"]
        for _ in range(3)
    ]
    page = service.client.get("/jobs?limit=2", headers=ann).get_json()
    assert [(each["id"], each["status"]) for each in page["jobs"]] == [
        (job_id, "pending") for job_id in accepted[:0:-1]
    ]
    rest = service.client.get(page["next"], headers=ann).get_json()
    assert ([each["id"] for each in rest["jobs"]], rest["next"]) == (accepted[:1], None)
    assert service.client.get("/jobs", headers=ben).get_json() == {"jobs": [], "next": None}
    service.start_worker()
    location = page["jobs"][0]["location"]
    eventually(lambda: service.client.get(location, headers=ann).status_code == 200)
    assert service.client.get("/jobs", headers=ann).get_json()["jobs"][0]["status"] == "ended"
    # A picture that became no job is in no list.
    service.client.post("/predict", data=form(b"no picture"), headers=ann | polled)
    assert len(service.client.get("/jobs", headers=ann).get_json()["jobs"]) == 3
    for query in ("limit=0", "limit=201", "before=x", "before=nan", "before=inf", "before=-1"):
        assert service.client.get(f"/jobs?{query}", headers=ann).status_code == 400


def test_an_end_is_seen_behind_any_number_of_older_jobs(
    service: Service, add: Add, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = service.app.extensions["jobs"].api_keys.limiter
    monkeypatch.setattr(limiter, "_monotonic", itertools.count(0.0, 0.25).__next__)
    ann, own = add("ann", jobs=150), keys.of_api_key("ann")
    now = client.time()[0]
    older = {waiting_member(str(uuid.uuid4())): now + 5 + number / 100 for number in range(149)}
    client.zadd(own.jobs, older)
    polled = ann | {"Prefer": "respond-async"}
    accepted = service.client.post("/predict", data=form(png(0)), headers=polled)
    assert accepted.status_code == 202
    service.start_worker()
    producer: Producer = service.app.extensions["jobs"].producer
    job_id = accepted.get_json()["id"]

    def has_ended() -> bool:  # without asking for it: that would free its place
        stored = producer.look_up(MODEL, job_id, owner="ann")
        return stored is not None and isinstance(stored.state, Result)

    eventually(has_ended)
    ends = [service.client.post("/predict", data=form(png(0)), headers=polled).status_code for _ in range(3)]
    assert ends == [429, 429, 202]


def test_a_polled_job_s_place_is_free_once_its_client_knows_of_its_end(
    service: Service, add: Add, client: redis.Redis, keys: Keys
) -> None:
    ann, own = add("ann", jobs=2), keys.of_api_key("ann")
    polled = ann | {"Prefer": "respond-async"}
    first, second = (
        service.client.post("/predict", data=form(png(0)), headers=polled).headers["Location"]
        for _ in range(2)
    )
    assert service.client.get(first, headers=ann).status_code == 202
    assert client.zcard(own.jobs) == 2
    service.start_worker()
    eventually(lambda: service.client.get(first, headers=ann).status_code == 200)
    assert service.client.get(f"{second}&wait=10", headers=ann).status_code == 200
    assert client.zcard(own.jobs) == 0
    assert len(service.client.get("/jobs", headers=ann).get_json()["jobs"]) == 2  # while results are kept


def test_whoever_hangs_up_while_it_waits_for_a_polled_job_gets_its_place_back(
    service: Service, add: Add, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = add("ann", jobs=2) | {"Prefer": "respond-async, wait=5"}
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: True)
    for _ in range(3):
        gone = service.client.post("/predict", data=form(png(0)), headers=ann)
        assert gone.status_code == 400
    own = keys.of_api_key("ann")
    assert (client.zcard(own.jobs), client.zcard(own.polled)) == (0, 0)


def test_the_list_forgets_no_job_that_is_about_to_be_enqueued(
    service: Service, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, enqueue, seen = add("ann"), Producer.enqueue, list[Any]()

    def list_first(producer: Producer, *args: Any) -> str:  # noqa: ANN401 - as it is called
        asking = threading.Thread(
            target=lambda: seen.append(service.app.test_client().get("/jobs", headers=ann).get_json())
        )
        asking.start()
        asking.join()
        return enqueue(producer, *args)

    monkeypatch.setattr(Producer, "enqueue", list_first)
    polled = ann | {"Prefer": "respond-async"}
    assert service.client.post("/predict", data=form(png(0)), headers=polled).status_code == 202
    assert seen == [{"jobs": [], "next": None}]
    assert len(service.client.get("/jobs", headers=ann).get_json()["jobs"]) == 1


@pytest.mark.parametrize("environment", [{}])
def test_without_keys_there_is_no_list(service: Service) -> None:
    assert service.client.get("/jobs").status_code == 404
