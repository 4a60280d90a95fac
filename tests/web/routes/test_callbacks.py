"""`callback_url` through the whole service: a job is polled, and its end is announced to a real receiver."""

import base64
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from broker import webhooks
from broker.keys import Keys
from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.receivers import SECRET, Receiver, receiving
from tests.support.service import Service
from tests.support.waiting import eventually
from web.webhooks.deliverer import Deliverer

pytestmark = pytest.mark.slow  # together they wait for seconds


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204."""
    with receiving() as running:
        yield running


@pytest.fixture
def environment(receiver: Receiver) -> dict[str, str]:
    """The receiver is listed."""
    return {"WEBHOOK_HOSTS": f"http://127.0.0.1:{receiver.port}", "WEBHOOK_SECRET": SECRET}


@pytest.fixture
def delivering(service: Service) -> Iterator[Service]:
    """The service with its worker at work, and webhooks under way."""
    deliverer: Deliverer = service.app.extensions["deliverer"]
    deliverer.start()
    service.start_worker()
    yield service
    deliverer.stop(within_s=5)


def _post(service: Service, *pictures: bytes, url: str, **headers: str) -> TestResponse:
    data = {**form(*(pictures or (png(255),))), "callback_url": url}
    return service.app.test_client().post("/predict", data=data, headers=headers)


def test_the_job_is_polled_and_its_answer_is_announced(delivering: Service, receiver: Receiver) -> None:
    accepted = _post(delivering, url=receiver.url)
    assert accepted.status_code == 202
    assert "Preference-Applied" not in accepted.headers
    polled = delivering.client.get(f"{accepted.headers['Location']}&wait=15")
    eventually(lambda: bool(receiver.calls))
    (call,) = receiver.calls
    announced = call.verified()
    assert isinstance(announced, dict)
    assert announced["predictions"][0]["label"] == "bright"
    # To the millisecond the ends of a key and of what was kept beside it differ.
    assert {**announced, "expires_at": ""} == {**polled.get_json(), "expires_at": ""}
    assert call.headers["webhook-id"] == accepted.get_json()["id"]


def test_each_picture_is_announced_by_itself(delivering: Service, receiver: Receiver) -> None:
    accepted = _post(delivering, png(0), b"no picture", png(255), url=receiver.url)
    results = accepted.get_json()["results"]
    assert [each["success"] for each in results] == [True, False, True]
    eventually(lambda: len(receiver.calls) == 2)
    assert sorted(receiver.ids) == sorted(each["id"] for each in results if each["success"])


@pytest.mark.parametrize("place", ["json", "query"])
def test_json_and_the_query_take_it_too(delivering: Service, receiver: Receiver, place: str) -> None:
    if place == "json":
        body = {"image": base64.b64encode(png(255)).decode(), "callback_url": receiver.url}
        accepted = delivering.client.post("/predict", json=body)
    else:
        query = {"callback_url": receiver.url}
        accepted = delivering.client.post("/predict", query_string=query, data=form(png(255)))
    assert accepted.status_code == 202
    eventually(lambda: receiver.ids == [accepted.get_json()["id"]])


def test_an_empty_one_counts_as_absent(delivering: Service) -> None:
    answer = delivering.client.post("/predict?callback_url=", data=form(png(255)))
    assert answer.status_code == 200


def test_prefer_is_heeded_beside_it(delivering: Service, receiver: Receiver) -> None:
    waited = _post(delivering, url=receiver.url, Prefer="respond-async, wait=10")
    assert (waited.status_code, waited.headers["Preference-Applied"]) == (200, "respond-async, wait=10")
    alone = _post(delivering, url=receiver.url, Prefer="wait=10")
    assert (alone.status_code, alone.headers["Preference-Applied"]) == (200, "wait=10")
    eventually(lambda: len(receiver.calls) == 2)


def test_the_same_request_again_is_announced_once(service: Service, receiver: Receiver) -> None:
    key = {"Idempotency-Key": "order-1"}
    first, again = (_post(service, url=receiver.url, **key) for _ in range(2))
    assert first.get_json()["id"] == again.get_json()["id"]
    other = _post(service, url=f"{receiver.url}&other", **key)
    assert (other.status_code, other.get_json()["error"]["code"]) == (422, "idempotency_key_reused")
    plain = service.client.post("/predict", data=form(png(255)), headers=key)
    assert plain.status_code == 422
    deliverer: Deliverer = service.app.extensions["deliverer"]
    deliverer.start()
    service.start_worker()
    eventually(lambda: bool(receiver.calls))
    eventually(lambda: service.app.extensions["jobs"].producer.webhooks.due(10) == [])
    deliverer.stop(within_s=5)
    assert receiver.ids == [first.get_json()["id"]]


def test_a_cancelled_job_is_not_announced(
    service: Service, receiver: Receiver, client: redis.Redis, keys: Keys
) -> None:
    accepted = _post(service, url=receiver.url)
    assert service.client.delete(accepted.headers["Location"]).status_code == 204
    assert client.zcard(keys.of(MODEL).webhooks) == 0
    assert service.client.delete(accepted.headers["Location"]).status_code == 404


def test_a_client_that_goes_while_it_waits_takes_no_call_with_it(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.routes.predict.is_client_gone", lambda: True)
    assert _post(service, url=receiver.url, Prefer="respond-async, wait=10").status_code == 400
    deliverer: Deliverer = service.app.extensions["deliverer"]
    deliverer.start()
    service.start_worker()
    eventually(lambda: len(receiver.calls) == 1)
    deliverer.stop(within_s=5)
    assert '"bright"' in receiver.calls[0].body.decode()


def test_a_deadline_without_a_worker_is_announced_though_a_poller_was_told(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = service.app.extensions["jobs"]
    monkeypatch.setattr(jobs, "limits", dataclasses.replace(jobs.limits, async_timeout_s=0.3))
    polled, left = _post(service, url=receiver.url), _post(service, url=receiver.url)
    told: list[int] = []

    def is_told() -> bool:
        told.append(service.client.get(polled.headers["Location"]).status_code)
        return told[-1] == 504

    eventually(is_told)
    deliverer: Deliverer = service.app.extensions["deliverer"]
    deliverer.start()
    eventually(lambda: len(receiver.calls) == 2)
    deliverer.stop(within_s=5)
    announced: dict[str, Any] = {call.headers["webhook-id"]: call.verified() for call in receiver.calls}
    assert sorted(announced) == sorted(each.get_json()["id"] for each in (polled, left))
    assert {each["error"]["code"] for each in announced.values()} == {"deadline_passed"}
    # The webhook was this job's one answer.
    assert service.client.get(left.headers["Location"]).status_code == 404


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://other.example.org/", "https://other.example.org is not in this service's WEBHOOK_HOSTS"),
        ("http://127.0.0.1:1/", "is not in this service's WEBHOOK_HOSTS"),
        ("http://user@127.0.0.1/", "is not accepted"),
        ("javascript:alert(1)", "is not accepted"),
    ],
)
def test_a_url_that_may_not_be_called_is_400_and_no_job(
    service: Service, client: redis.Redis, keys: Keys, url: str, words: str
) -> None:
    answer = _post(service, url=url)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "bad_request")
    assert words in answer.get_json()["error"]["message"]
    assert client.llen(keys.of(MODEL).polled) == 0


def test_a_drawn_answer_can_t_be_announced(service: Service, receiver: Receiver) -> None:
    answer = _post(service, url=receiver.url, Accept="image/png")
    assert answer.status_code == 400
    assert "leave out callback_url, or Accept: image/png" in answer.get_json()["error"]["message"]


def test_beyond_the_bound_it_is_503(
    service: Service, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_WEBHOOKS", 0)
    answer = _post(service, url=receiver.url)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert answer.get_json()["error"]["code"] == "overloaded"


def _callbacks(document: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The parameters and the JSON fields of /predict that the description has for it."""
    parameters = document["paths"]["/predict"]["post"]["parameters"]
    named = [each["name"] for each in parameters if each["name"] == "callback_url"]
    return named, [
        name for name in document["components"]["schemas"]["PredictBody"]["properties"] if "callback" in name
    ]


def test_the_description_has_it_and_the_webhook(service: Service) -> None:
    document = service.client.get("/openapi.json").get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert _callbacks(document) == (["callback_url"], ["callback_url"])
    assert "webhook-signature" in json.dumps(document["webhooks"]["jobEnded"])


@pytest.mark.parametrize("environment", [{}])
def test_without_hosts_it_is_400_with_the_reason_and_not_described(service: Service) -> None:
    answer = _post(service, url="https://hooks.example.org/")
    assert answer.status_code == 400
    assert "its operator has not set WEBHOOK_HOSTS" in answer.get_json()["error"]["message"]
    assert "deliverer" not in service.app.extensions
    document = service.client.get("/openapi.json").get_json()
    assert _callbacks(document) == ([], [])
    assert "webhooks" not in document
