"""X-Request-ID: which are kept, and everywhere that one must be found again."""

import json
import logging
import uuid

import msgspec
import pytest
import redis

from broker.keys import Keys
from telemetry import logs
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.middleware import request_ids, request_lifecycle

GIVEN = "client-7/a:b"


def is_fresh(text: str) -> bool:
    return str(uuid.UUID(text)) == text


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        "x",
        "a" * 128,
        "Root=1-67891233-abcdef012345678912345678",
        "0190c0de-4c68-47e9-877e-25cf1868a37d",
    ],
)
def test_a_sane_id_is_kept(given: str) -> None:
    assert request_ids.chosen(given) == given


@pytest.mark.parametrize(
    "given",
    ["", " ", "a b", "a" * 129, "-a", "a\nb", "a\r\nSet-Cookie: x", "ä", "<b>", '"', "a,b", "\x1b[31m"],
)
def test_any_other_is_replaced(given: str) -> None:
    assert is_fresh(request_ids.chosen(given))


@pytest.mark.parametrize("path", ["/healthz", "/", "/nothing", "/openapi.json", "/predict"])
def test_every_answer_has_it(service: Service, path: str) -> None:
    assert service.client.get(path, headers={"X-Request-ID": GIVEN}).headers["X-Request-ID"] == GIVEN
    fresh = service.client.get(path).headers["X-Request-ID"]
    assert is_fresh(fresh)
    assert service.client.get(path).headers["X-Request-ID"] != fresh


def test_failures_say_it_in_their_body_too(running: Service) -> None:
    head = {"X-Request-ID": GIVEN}
    for response in (
        running.client.post("/predict", data=b"x", content_type="text/plain", headers=head),
        running.client.get("/predict", headers=head),
        running.client.get("/nothing", headers=head),
        running.client.post("/predict", json={"image": ["", ""]}, headers=head),
    ):
        assert response.status_code >= 400
        assert response.get_json()["request_id"] == GIVEN
    running.engine.on_batch = lambda _: 1 / 0
    failed = running.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    assert (failed.status_code, failed.get_json()["request_id"]) == (500, GIVEN)


def test_its_job_takes_it_along(service: Service, client: redis.Redis, keys: Keys) -> None:
    head = {"X-Request-ID": GIVEN, "Prefer": "respond-async"}
    accepted = service.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    assert accepted.status_code == 202
    (job,) = client.lrange(keys.of(MODEL).polled, 0, -1)
    queued = msgspec.json.decode(job)
    assert (queued["id"], queued["request_id"]) == (accepted.get_json()["id"], GIVEN)


def test_the_model_server_names_it_of_a_job_that_fails(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    running.client.post("/predict", data=png(0), content_type="image/png", headers={"X-Request-ID": GIVEN})
    eventually(lambda: f"(request {GIVEN})" in caplog.text)


def test_what_is_logged_while_a_batch_runs_names_its_jobs(
    running: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(logs.JsonFormatter())
    running.engine.on_batch = lambda _: logging.getLogger("a.network").warning("odd")
    head = {"X-Request-ID": GIVEN}
    answer = running.client.post("/predict", data=png(0), content_type="image/png", headers=head)
    logging.getLogger("a.network").warning("of no batch")
    during, after = (json.loads(line) for line in caplog.text.splitlines() if "a.network" in line)
    named = {"model": MODEL, "job_ids": [answer.get_json()["id"]], "request_ids": [GIVEN]}
    assert during.items() >= named.items()
    assert after.keys().isdisjoint(named)


def test_lines_of_the_log_have_it_while_the_request_is_answered(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "web")
    caplog.handler.addFilter(request_ids.Stamp())
    caplog.handler.setFormatter(logging.Formatter(request_ids.LOG_FORMAT))

    service.client.get("/nothing", headers={"X-Request-ID": GIVEN})
    logging.getLogger("web.other").warning("of no request")
    lines = [line for line in caplog.text.splitlines() if " web." in line]
    assert any(f" {GIVEN} GET /nothing: 404" in line for line in lines)
    assert any(f" {request_ids.NONE} of no request" in line for line in lines)


def test_an_unexpected_error_is_logged_with_the_id_that_its_client_has(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.handler.addFilter(request_ids.Stamp())
    monkeypatch.setattr(service.app.extensions["jobs"].registry, "models", lambda **_: 1 / 0)
    response = service.client.get("/models")
    assert response.status_code == 500
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert (
        record.__dict__["request_id"] == response.get_json()["request_id"] == response.headers["X-Request-ID"]
    )


def test_a_path_forges_no_line_of_the_log(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "web")
    service.client.get("/x%0a2026-01-01%20ERROR%20forged")
    service.client.get("/" + "y" * 3000)
    messages = [record.getMessage() for record in caplog.records if record.name == request_lifecycle.__name__]
    assert messages == ["GET /x%0A2026-01-01%20ERROR%20forged: 404", f"GET /{'y' * 199}: 404"]
