"""FALLBACK_MODEL: who answers requests that name no model once the default has failed to load."""

import io
import threading
from dataclasses import replace
from urllib.parse import unquote

import pytest
import redis

from broker.clock import RedisClock
from broker.errors import ModelUnavailable
from broker.keys import Keys
from broker.lease import Lease
from broker.messages import State, WorkerState
from tests.support.fakes import CARD, KEY_TTL_S, MODEL, lapse
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually

WHY = "no weights. Three ways out: ..."
REASON = f"big: {WHY}"
REFUSED = f"{REASON} Retrying helps only once its operator has repaired it."


@pytest.fixture
def environment() -> dict[str, str]:
    """`tiny`, which answers, is the fallback of `big`, which has a thousand classes."""
    return {"MODELS": "big", "DEFAULT_MODEL": "big", "FALLBACK_MODEL": MODEL}


@pytest.fixture
def big(running: Service, client: redis.Redis, keys: Keys) -> Lease:
    """A worker of the default model, still loading; `running`: that of the fallback serves."""
    card = replace(CARD, model="big", classes=1000, top=5, top_max=1000)
    own = Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
    own.register(State(WorkerState.LOADING, "v1"))
    eventually(lambda: running.client.get(f"/readyz?model={MODEL}").status_code == 200)
    return own


@pytest.fixture
def failed(running: Service, big: Lease) -> Lease:
    """It has failed."""
    big.announce(State(WorkerState.FAILED, "v1", reason=REASON))
    eventually(lambda: running.client.get("/models").get_json()["default_answered_by"] == MODEL)
    return big


def _post(service: Service, query: str = "", *pictures: bytes, **headers: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    files = [(io.BytesIO(each), f"{number}.png") for number, each in enumerate(pictures or (png(255),))]
    # A client of its own: Flask's belongs to one thread.
    return service.app.test_client().post(f"/predict{query}", data={"image": files}, headers=headers)


@pytest.mark.usefixtures("failed")
def test_it_answers_under_its_own_name_and_says_why(running: Service) -> None:
    answer = _post(running)
    assert answer.status_code == 200
    assert (answer.json["model"], answer.json["predictions"][0]["label"]) == (MODEL, "bright")
    assert answer.json["notice"] == f"{MODEL} answers for big, which failed to load: {WHY}"


def test_an_annotated_picture_says_it_in_its_head(running: Service, failed: Lease) -> None:
    failed.announce(State(WorkerState.FAILED, "v1", reason="big: 100 % of größe\nis missing"))
    eventually(lambda: "größe" in running.client.get("/models").text)
    answer = _post(running, Accept="image/png")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert answer.headers["X-Model"] == MODEL
    said = answer.headers["X-Notice"]
    assert said.isascii()
    assert said.startswith(f"{MODEL} answers for big, which failed to load: 100 %25 of gr")
    assert unquote(said) == f"{MODEL} answers for big, which failed to load: 100 % of größe\nis missing"


def test_a_long_notice_does_not_outgrow_the_head_of_an_answer(running: Service, failed: Lease) -> None:
    failed.announce(State(WorkerState.FAILED, "v1", reason="größe 图" * 200))
    eventually(lambda: "图" in running.client.get("/models").text)
    said = _post(running, Accept="image/png").headers["X-Notice"]
    assert len(said) < 2500
    assert "\ufffd" not in unquote(said)


@pytest.mark.usefixtures("failed")
def test_who_names_the_failed_model_gets_its_failure(running: Service) -> None:
    for query in ("?model=big", "?model=big&top=3"):
        answer = _post(running, query)
        assert (answer.status_code, answer.json["error"]["message"]) == (503, REFUSED)
    by_form = running.client.post("/predict", data={"image": (io.BytesIO(png(0)), "x.png"), "model": "big"})
    assert by_form.status_code == 503
    assert running.client.get("/readyz?model=big").status_code == 503


def test_a_classifier_does_not_fall_in_for_a_detector(
    running: Service, client: redis.Redis, keys: Keys
) -> None:
    card = replace(CARD, model="big", task="detection")
    own = Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
    own.register(State(WorkerState.FAILED, "v1", reason=REASON))
    eventually(lambda: running.client.get(f"/readyz?model={MODEL}").status_code == 200)
    eventually(lambda: running.client.get("/readyz?model=big").status_code == 503)
    answer = _post(running)
    assert (answer.status_code, answer.json["error"]["message"]) == (503, REFUSED)
    assert running.client.get("/models").get_json()["default_answered_by"] == "big"


@pytest.mark.usefixtures("failed")
def test_who_names_the_fallback_is_told_nothing(running: Service) -> None:
    assert "notice" not in _post(running, f"?model={MODEL}").json


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize(
    ("query", "status", "count"), [("", 200, 2), ("?top=1", 200, 1), ("?top=900", 200, 3)]
)
def test_the_bounds_of_top_are_those_of_the_model_that_was_asked_for(
    running: Service, query: str, status: int, count: int
) -> None:
    answer = _post(running, query)
    assert (answer.status_code, len(answer.json["predictions"])) == (status, count)


@pytest.mark.usefixtures("failed")
def test_more_than_the_default_has_is_refused_as_ever(running: Service) -> None:
    answer = _post(running, "?top=1001", png(0), png(1))
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_request")


@pytest.mark.usefixtures("failed")
def test_each_of_several_pictures_says_so(running: Service) -> None:
    answer = _post(running, "", png(0), b"no picture", png(255))
    first, second, third = answer.json["results"]
    assert (first["model"], third["model"]) == (MODEL, MODEL)
    assert WHY in first["notice"]
    assert WHY in third["notice"]
    assert second["error"]["code"] == "invalid_image"


@pytest.mark.usefixtures("failed")
def test_a_job_that_is_polled_is_the_fallback_s_and_says_so_twice(running: Service) -> None:
    accepted = _post(running, Prefer="respond-async")
    assert accepted.status_code == 202
    assert (accepted.json["model"], WHY in accepted.json["notice"]) == (MODEL, True)
    location = accepted.headers["Location"]
    assert location.endswith(f"?model={MODEL}")
    eventually(lambda: running.client.get(location).status_code == 200)
    answer = running.client.get(location).get_json()
    assert (answer["model"], WHY in answer["notice"]) == (MODEL, True)


@pytest.mark.slow
def test_a_default_that_still_loads_is_waited_for_and_replaced_if_it_then_fails(
    running: Service, client: redis.Redis, keys: Keys, big: Lease
) -> None:
    assert running.client.get("/models").get_json()["default_answered_by"] == "big"
    answers = []
    asking = threading.Thread(target=lambda: answers.append(_post(running)))
    asking.start()
    eventually(lambda: client.llen(keys.of("big").queue) == 1)
    big.announce(State(WorkerState.FAILED, "v1", reason=REASON))
    asking.join(20)
    (answer,) = answers
    assert (answer.status_code, answer.json["model"]) == (200, MODEL)
    assert WHY in answer.json["notice"]
    assert client.keys(keys.of("big").result("*")) == []


def test_a_default_without_a_worker_is_waited_for_too(
    running: Service, client: redis.Redis, keys: Keys, big: Lease
) -> None:
    big.announce(State(WorkerState.READY, "v1"))
    seconds, _ = client.time()
    client.zadd(keys.of("big").workers, {big.worker: seconds - 2})
    assert running.client.get("/models").get_json()["default_answered_by"] == "big"
    # And when it has been away for long that is said, as ever: it may come back any moment.
    client.zadd(keys.of("big").workers, {big.worker: seconds - 1000})
    assert running.client.get("/models").get_json()["default_answered_by"] == "big"
    answer = _post(running)
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "no_worker")


@pytest.mark.slow
@pytest.mark.usefixtures("failed")
def test_a_fallback_that_can_not_answer_leaves_the_default_s_reason(
    running: Service, client: redis.Redis, keys: Keys
) -> None:
    running.worker.lease.announce(State(WorkerState.FAILED, "v1", reason="tiny: broken as well"))
    models = running.app.extensions["jobs"].models
    eventually(lambda: models.answering() == "big")
    with pytest.raises(ModelUnavailable, match="no weights"):
        models.choose(None)
    running.worker.lease.announce(State(WorkerState.READY, "v1"))
    lapse(client, keys, running.worker.lease.worker)


@pytest.mark.usefixtures("failed")
def test_the_models_and_the_page_say_who_answers(running: Service) -> None:
    models = running.client.get("/models").get_json()
    told = (models["default_model"], models["fallback_model"], models["default_answered_by"])
    assert told == ("big", MODEL, MODEL)
    page = running.client.get("/").get_data(as_text=True)
    assert f"{MODEL} answers instead of big, which could not be loaded." in page
    assert "big: no weights." in page
    assert f'<option value="{MODEL}" selected>' in page
    ready = running.client.get("/readyz")
    assert (ready.status_code, ready.json) == (
        200,
        {"ready": True, "models": {"big": "failed", MODEL: "ready"}},
    )


@pytest.mark.parametrize("environment", [{"MODELS": "big", "DEFAULT_MODEL": "big"}])
def test_without_a_fallback_the_default_s_failure_is_the_answer(
    running: Service, client: redis.Redis, keys: Keys
) -> None:
    card = replace(CARD, model="big")
    own = Lease(client, keys, card, lease_s=30, key_ttl_s=KEY_TTL_S, clock=RedisClock())
    own.register(State(WorkerState.FAILED, "v1", reason=REASON))
    eventually(lambda: _post(running).status_code == 503)
    assert _post(running).json["error"]["message"] == REFUSED
    models = running.client.get("/models").get_json()
    assert (models["fallback_model"], models["default_answered_by"]) == (None, "big")
    assert "answers instead of" not in running.client.get("/").get_data(as_text=True)
