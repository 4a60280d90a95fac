"""The states of a job that is polled, as Server-Sent Events."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support.fakes import MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.jobs import JobClient

Event = tuple[str, dict[str, Any]]


def _accepted(service: Service) -> str:
    answer = service.client.post("/predict", data=form(png(255)), headers={"Prefer": "respond-async"})
    return str(answer.get_json()["id"])


def _stream(service: Service, job_id: str, **how: Any) -> TestResponse:  # noqa: ANN401
    return service.app.test_client().get(f"/predictions/{job_id}/events?model={MODEL}", **how)


def _events(response: TestResponse) -> Iterator[Event]:
    """Each event as it comes; a comment is one without a name."""
    for block in response.iter_encoded():
        for text in block.decode().strip().split("\n\n"):
            if text.startswith(":"):
                yield "", {}
            elif not text.startswith("retry:"):
                name, data = text.split("\n")
                yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def _places_taken(service: Service) -> int:
    jobs: JobClient = service.app.extensions["jobs"]
    return jobs.places.taken


def test_a_job_is_pending_and_then_done(service: Service) -> None:
    job_id = _accepted(service)
    taken = _places_taken(service)
    response = _stream(service, job_id)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    assert response.headers["Cache-Control"] == "no-store"
    events = _events(response)
    name, pending = next(events)
    assert (name, pending["id"], pending["status"]) == ("pending", job_id, "pending")
    assert _places_taken(service) == taken + 1
    service.start_worker()
    name, done = next(each for each in events if each[0])
    assert (name, done["predictions"][0]["label"]) == ("done", "bright")
    assert done["expires_at"].endswith("Z")
    assert list(events) == []
    response.close()
    assert _places_taken(service) == taken


def test_a_job_that_has_ended_is_said_at_once_and_needs_no_place(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _accepted(running)
    running.client.get(f"/predictions/{job_id}?model={MODEL}&wait=15")
    monkeypatch.setattr(
        running.app.extensions["jobs"].places, "slot", lambda: pytest.fail("a place was taken")
    )
    assert [name for name, _ in _events(_stream(running, job_id))] == ["done"]


def test_a_failure_is_an_event(service: Service) -> None:
    service.engine.on_batch = lambda _: 1 / 0
    job_id = _accepted(service)
    events = _events(_stream(service, job_id, headers={"X-Request-ID": "its-own"}))
    assert next(events)[0] == "pending"
    service.start_worker()
    name, failed = next(each for each in events if each[0])
    assert (name, failed["error"]["code"]) == ("failed", "inference_failed")
    assert failed["request_id"] == "its-own"


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "1"}])
def test_the_deadline_is_one(service: Service) -> None:
    events = [each for each in _events(_stream(service, _accepted(service))) if each[0]]
    assert [(name, data.get("error", {}).get("code")) for name, data in events] == [
        ("pending", None),
        ("failed", "deadline_passed"),
    ]


def test_a_cancelled_job_is_gone(service: Service) -> None:
    job_id = _accepted(service)
    events = _events(_stream(service, job_id))
    assert next(events)[0] == "pending"
    assert service.client.delete(f"/predictions/{job_id}?model={MODEL}").status_code == 204
    name, gone = next(each for each in events if each[0])
    assert (name, gone["error"]["code"]) == ("gone", "not_found")


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.6"}])
def test_a_stream_ends_with_a_request_s_time_and_beats_until_then(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.routes.job_events.HEARTBEAT_S", 0.1)
    names = [name for name, _ in _events(_stream(service, _accepted(service)))]
    assert names[0] == "pending"
    assert 3 <= len(names) <= 8
    assert set(names[1:]) == {""}


@pytest.mark.parametrize("environment", [{"WEB_THREADS": "9"}])
def test_a_client_that_goes_gives_its_place_back(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = _accepted(service)
    gone: list[bool] = []
    monkeypatch.setattr("web.routes.predict.has_client_gone", lambda *_, **__: bool(gone))
    response = _stream(service, job_id)
    assert next(_events(response))[0] == "pending"
    refused = _stream(service, job_id)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "overloaded")
    gone.append(True)
    assert list(_events(response)) == []
    response.close()
    assert _places_taken(service) == 0
    eventually(lambda: not service.app.extensions["jobs"].replies._waiters)


def test_an_unknown_job_is_404_and_head_takes_no_place(service: Service) -> None:
    missing = _stream(service, "0190c0de-4c68-47e9-877e-25cf1868a37d")
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "not_found")
    assert "If another model has it, name that one: ?model=NAME." in missing.get_json()["error"]["message"]
    taken = _places_taken(service)
    head = service.client.head(f"/predictions/{_accepted(service)}/events?model={MODEL}")
    assert (head.status_code, head.mimetype, head.data) == (200, "text/event-stream", b"")
    assert _places_taken(service) == taken
