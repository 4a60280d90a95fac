"""Jobs that are accepted at once and polled for: `Prefer: respond-async` and `GET /predictions/<uuid>`."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from msgspec import structs

from broker.keys import Keys
from broker.registry import Registry
from tests.support.fakes import MODEL, enqueue, is_pending, job
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.model_choice import ModelChooser


def test_a_job_can_be_polled_for(service: Service) -> None:
    accepted = service.client.post(
        f"/predict?model={MODEL}&top=1", data=form(png(255)), headers={"Prefer": "respond-async"}
    )
    assert accepted.status_code == 202
    address = accepted.headers["Location"]
    job_id = accepted.get_json()["id"]
    assert address == f"/predictions/{job_id}?model={MODEL}"
    pending = service.client.get(address)
    assert (pending.status_code, pending.get_json()["status"]) == (202, "pending")
    service.start_worker()
    eventually(lambda: service.client.get(address).status_code == 200)
    answer = service.client.get(address).get_json()
    assert answer["id"] == job_id
    assert [each["label"] for each in answer["predictions"]] == ["bright"]


def test_several_jobs_can_be_polled_for(running: Service) -> None:
    response = running.client.post(
        "/predict", data=form(png(0), b"bad", png(255)), headers={"Prefer": "respond-async"}
    )
    assert response.status_code == 202
    first, bad, third = response.get_json()["results"]
    assert bad["error"]["code"] == "invalid_image"
    assert bad["request_id"] == response.headers["X-Request-ID"]
    for each, label in ((first, "dark"), (third, "bright")):
        eventually(lambda at=each["location"]: running.client.get(at).status_code == 200)  # type: ignore[misc]
        assert running.client.get(each["location"]).get_json()["predictions"][0]["label"] == label


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "0.2"}])
def test_a_polled_job_that_nobody_runs_ends_at_its_deadline(service: Service) -> None:
    accepted = service.client.post("/predict", data=form(png(0)), headers={"Prefer": "respond-async"})
    address = accepted.headers["Location"]
    seen: list[tuple[int, str]] = []

    def ended() -> bool:
        response = service.client.get(address)
        seen.append((response.status_code, response.get_json().get("error", {}).get("code", "")))
        return response.status_code != 202

    eventually(ended)
    assert seen[-1] == (504, "deadline_passed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "address",
    [
        "/predictions/0190c0de-4c68-47e9-877e-25cf1868a37d",
        "/predictions/x",
        "/predictions/",
        "/nothing",
    ],
)
def test_what_is_not_there_is_404(running: Service, address: str) -> None:
    response = running.client.get(address)
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "not_found")


def test_a_result_is_polled_under_its_own_model_only(running: Service) -> None:
    answer = running.client.post("/predict", data=form(png(0))).get_json()
    assert running.client.get(f"/predictions/{answer['id']}?model={MODEL}").status_code == 200
    other = running.client.get(f"/predictions/{answer['id']}?model=never")
    assert (other.status_code, other.get_json()["error"]["code"]) == (404, "not_found")


def test_a_job_of_a_model_that_is_news_to_this_process_is_found(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = running.client.post("/predict", data=form(png(0))).get_json()["id"]
    monkeypatch.setattr(Registry, "models", lambda _: {})
    monkeypatch.setattr(ModelChooser, "expects", lambda *_: False)
    assert running.client.get(f"/predictions/{job_id}?model={MODEL}").status_code == 200


@pytest.mark.parametrize("model", ["other", "../a", "x" * 200])
def test_a_poller_of_a_model_that_there_is_not_is_told_which_there_are(running: Service, model: str) -> None:
    eventually(lambda: running.client.get(f"/readyz?model={MODEL}").status_code == 200)
    response = running.client.get(f"/predictions/{uuid.uuid4()}", query_string={"model": model})
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "unknown_model")
    assert f"Available: never, {MODEL}." in response.get_json()["error"]["message"]


@pytest.mark.parametrize("environment", [{"ASYNC_TIMEOUT_S": "0.2"}])
def test_a_deadline_that_a_poller_was_told_of_stands(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    accepted = service.client.post("/predict", data=form(png(0)), headers={"Prefer": "respond-async"})
    eventually(lambda: service.client.get(accepted.headers["Location"]).status_code == 504)
    assert client.keys(keys.of(MODEL).result("*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "1400"}])
def test_a_thousand_polled_jobs_shut_out_nobody_who_waits_and_go_on(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    """A call of the network takes 0.02 s and four pictures: alone the thousand take 5 s."""
    polled = [structs.replace(job(deadline_in_s=300), polled=True) for _ in range(1000)]
    enqueue(client, keys, *polled)
    service.engine.on_batch = lambda _: time.sleep(0.02)
    service.start_worker()

    def ask(until: float) -> list[tuple[int, float]]:
        """Each answer's status, and how long it took."""
        answers: list[tuple[int, float]] = []
        http = service.app.test_client()
        while (began := time.monotonic()) < until:
            status = http.post("/predict", data=form(png(0))).status_code
            answers.append((status, time.monotonic() - began))
        return answers

    with ThreadPoolExecutor(4) as clients:
        until = time.monotonic() + 2
        answers = [answer for answers in clients.map(ask, [until] * 4) for answer in answers]
    done = next(number for number, each in enumerate(polled) if is_pending(client, keys, each.id))
    assert {status for status, _ in answers} == {200}
    assert max(took_s for _, took_s in answers) < 1
    assert 0.2 * len(answers) < done < 1000
