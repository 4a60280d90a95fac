"""Alive, ready, models, page: what each says while things are well, and while they are not."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis
from werkzeug.test import TestResponse

from broker.clock import RedisClock
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import Fit, State, WorkerState
from settings import Settings
from tests.support.fakes import CARD, KEY_TTL_S, MODEL, READY
from tests.support.pictures import png
from tests.support.redis_server import RedisServer
from tests.support.service import Service, disconnect
from tests.support.waiting import eventually
from web.app import create_app


def test_all_is_well(running: Service) -> None:
    assert running.client.get("/healthz").get_json() == {"alive": True}
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    assert running.client.get("/readyz").get_json() == {"ready": True, "models": {MODEL: "ready"}}
    assert running.client.get(f"/readyz?model={MODEL}").status_code == 200


def test_a_model_that_nobody_serves_is_not_ready(running: Service) -> None:
    response = running.client.get("/readyz?model=never")
    assert response.status_code == 503
    assert response.get_json()["reason"] == "no live worker serves never"


def test_a_model_that_is_not_there_is_not_said_to_be_starting(running: Service) -> None:
    response = running.client.get("/readyz?model=misspelt")
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "unknown_model")
    assert MODEL in response.get_json()["error"]["message"]


def test_without_a_worker_it_is_alive_and_not_ready(service: Service) -> None:
    assert service.client.get("/healthz").status_code == 200
    assert service.client.get("/readyz").status_code == 503
    assert service.client.get("/readyz").get_json()["models"] == {MODEL: "loading"}


def test_models_shows_card_state_workers_and_queue(running: Service) -> None:
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    answer = running.client.get("/models").get_json()
    assert answer["default_model"] == MODEL
    (model,) = answer["models"]
    assert (model["model"], model["state"], model["queue_length"]) == (MODEL, "ready", 0)
    assert model["input"] == {
        "width": 2,
        "height": 2,
        "channels": 1,
        "fit": "stretch",
        "resize": 0,
        "resample": "bilinear",
        "library": "pillow",
        "decode": "fast",
        "border": -1,
    }
    assert [each["state"] for each in model["workers"]] == ["ready"]
    assert 0 <= answer["time"] - model["workers"][0]["heartbeat"] < 5


def test_models_counts_the_pictures(running: Service) -> None:
    eventually(lambda: running.client.get("/readyz").status_code == 200)
    for _ in range(3):
        assert running.client.post("/predict", data=png(0), content_type="image/png").status_code == 200

    def worker() -> dict[str, float]:
        said: dict[str, float] = running.client.get("/models").get_json()["models"][0]["workers"][0]
        return said

    first = worker()
    running.worker.status.announce()  # as the keeper does at each renewal
    assert worker()["pictures"] == 3
    assert worker()["heartbeat"] >= first["heartbeat"]


Away = Callable[[str, float], None]


@pytest.fixture
def away(service: Service, client: redis.Redis, keys: Keys) -> Away:
    """Has a model that reads drawings, whose only worker left so many seconds ago (of 20 + 60)."""

    def leave(name: str, ago_s: float) -> None:
        card = replace(CARD, model=name, input=replace(CARD.input, fit=Fit.INK))
        lease = Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
        worker = lease.register(READY)
        lease.leave()
        tombstone = client.zscore(keys.of(name).workers, worker)
        assert tombstone is not None
        client.zadd(keys.of(name).workers, {worker: tombstone + ago_s})
        service.client.get("/models")  # the page shows what was read last

    return leave


def _states(service: Service) -> dict[str, str]:
    return {each["model"]: each["state"] for each in service.client.get("/models").get_json()["models"]}


def test_a_model_that_left_a_moment_ago_is_shown_without_a_paper_to_draw_on(
    service: Service, away: Away
) -> None:
    away("added", 10)
    assert _states(service) == {MODEL: "loading", "added": "no worker"}
    assert service.client.get("/readyz").get_json()["models"] == _states(service)
    page = service.client.get("/").get_data(as_text=True)
    assert 'value="added"' in page
    assert re.search(r'<section id="draw"[^>]* hidden>', page)


def test_a_model_that_nobody_serves_any_more_is_not_shown(
    service: Service, away: Away, client: redis.Redis, keys: Keys
) -> None:
    away("added", 600)
    away("forgotten", 10)
    client.delete(keys.of("forgotten").workers)
    assert _states(service) == {MODEL: "loading"}
    assert service.client.get("/readyz").get_json()["models"] == {MODEL: "loading"}
    assert 'value="added"' not in service.client.get("/").get_data(as_text=True)
    # Who asks for it by name hears of it.
    assert service.client.get("/readyz?model=added").get_json()["models"] == {"added": "no worker"}


def test_a_model_that_is_expected_is_shown_however_long_it_is_away(service: Service, away: Away) -> None:
    away("never", 600)
    models = service.client.get("/models").get_json()["models"]
    assert {each["model"]: each["expected"] for each in models} == {MODEL: True, "never": True}
    assert _states(service)["never"] == "no worker"
    page = service.client.get("/").get_data(as_text=True)
    assert re.search(r'<section id="draw"[^>]*>', page)
    assert not re.search(r'<section id="draw"[^>]* hidden>', page)


def test_a_failed_model_is_refused_with_its_reason(service: Service) -> None:
    service.worker.lease.announce(State(WorkerState.FAILED, "v1", reason="no weights. Three ways out: ..."))
    response = service.client.post("/predict")
    assert response.status_code == 400
    response = service.client.post("/predict", data=b"x", content_type="image/png")
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "model_unavailable")
    said = "no weights. Three ways out: ... Retrying helps only once its operator has repaired it."
    assert response.get_json()["error"]["message"] == said
    assert response.headers["Retry-After"] == "30"
    page = service.client.get("/").get_data(as_text=True)
    assert '<span class="words" lang="en">no weights.</span>' in page
    assert '<p lang="en">no weights. Three ways out: ...</p>' in page
    assert "Only the operator of this service can fix that; choose another model." in page
    assert "no weights" in service.client.get(f"/readyz?model={MODEL}").get_json()["reason"]
    assert service.client.get("/models").get_json()["models"][0]["reason"].startswith("no weights")


@pytest.mark.slow
def test_a_request_that_waits_for_a_model_hears_that_it_failed(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    answers: list[TestResponse] = []

    def ask() -> None:
        with service.app.test_client() as http:
            answers.append(http.post("/predict", data=png(0), content_type="image/png"))

    waiting = threading.Thread(target=ask)
    waiting.start()
    eventually(lambda: client.llen(keys.of(MODEL).queue) == 1)
    service.worker.lease.announce(State(WorkerState.FAILED, "v1", reason="no weights"))
    waiting.join(15)  # well before its deadline of 20 s
    (response,) = answers
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "model_unavailable")
    assert "only once its operator has repaired it" in response.get_json()["error"]["message"]


@pytest.mark.parametrize("environment", [{"REQUEST_TIMEOUT_S": "0.1"}])
def test_when_none_has_lived_for_a_while_it_is_said_at_once(service: Service) -> None:
    service.worker.lease.leave()
    eventually(
        lambda: (
            service.client.post("/predict", data=b"x", content_type="image/png").get_json()["error"]["code"]
            == "no_worker"
        )
    )


@pytest.mark.slow
def test_without_redis_it_is_alive_says_why_and_recovers(own_redis: RedisServer) -> None:
    app = create_app(Settings.from_env({"REDIS_URL": own_redis.url, "MODELS": MODEL}))
    http = app.test_client()
    own_redis.stop(kill=True)
    assert http.get("/healthz").status_code == 200
    for address in ("/readyz", "/models"):
        response = http.get(address)
        assert (response.status_code, response.get_json()["error"]["code"]) == (503, "broker_unavailable")
    response = http.post("/predict", data=b"x", content_type="image/png")
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "broker_unavailable")
    assert "use its queue at the moment" in http.get("/").get_data(as_text=True)
    own_redis.start()
    assert http.get("/models").get_json()["models"] == []
    disconnect(app)
