"""`/predictions/NAME` and `/ping`: TorchServe's interface, over a real Redis and a worker in this process."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.errors import BrokerUnavailable
from broker.messages import Pixels, Prediction, RawOutput, Result
from tests.support.fakes import CARD, MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.dialects import model_versions, torchserve
from web.routes import predict

ADDRESS = f"/predictions/{MODEL}"


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("field", ["", "data", "body", "image", "file"])
def test_labels_have_their_probabilities_the_best_first(running: Service, method: str, field: str) -> None:
    def data() -> Any:  # noqa: ANN401 - what the test client takes
        return form(png(255), field=field) if field else png(255)

    response = running.client.open(ADDRESS, method=method, data=data())
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert [*response.get_json().items()] == [("bright", 1.0), ("dark", 0.0), ("grey", 0.0)]
    (best,) = running.client.open(f"{ADDRESS}?top=1", method=method, data=data()).get_json()
    assert best == "bright"


def test_the_probabilities_are_those_of_predict(running: Service) -> None:
    numbers = np.random.default_rng(6).dirichlet([1, 1, 1]).astype(np.float32)
    running.engine.network = lambda batch: (np.stack([numbers] * len(batch)),)
    listed = running.client.post("/predict?top=3", data=form(png(3))).get_json()["predictions"]
    answer = running.client.post(ADDRESS, data=png(3)).get_json()
    assert [*answer.items()] == [
        (each["label"], pytest.approx(each["probability"], abs=1e-6)) for each in listed
    ]


@pytest.mark.parametrize(
    ("address", "data", "status", "kind", "words"),
    [
        ("/predictions/other", png(0), 404, "ModelNotFoundException", "Unknown model"),
        (f"{ADDRESS}/1.0", png(0), 404, "ModelNotFoundException", "1.0"),
        ("/predictions/never", png(0), 503, "ServiceUnavailableException", "never"),
        (ADDRESS, b"text", 400, "BadRequestException", "not a picture"),
        (ADDRESS, b"%PDF-1.4", 415, "BadRequestException", "PDF"),
        (ADDRESS, b"", 400, "BadRequestException", "no picture"),
        (f"{ADDRESS}?top=9", png(0), 400, "BadRequestException", "top"),
        (ADDRESS, b"x" * 1_200_000, 413, "BadRequestException", "1 MB"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("environment", [{"MAX_UPLOAD_MB": "1"}])
def test_a_failure_is_torchserve_s(
    running: Service,
    address: str,
    data: bytes,
    status: int,
    kind: str,
    words: str,
    method: str,
) -> None:
    response = running.client.open(address, method=method, data=data)
    answer = response.get_json()
    assert response.status_code == status, answer
    assert (answer["code"], answer["type"], [*answer]) == (status, kind, ["code", "type", "message"])
    assert words in answer["message"]
    assert ("Retry-After" in response.headers) is (status == 503)


def test_one_picture_is_taken(running: Service) -> None:
    answer = running.client.post(ADDRESS, data=form(png(0), png(0), field="data")).get_json()
    assert (answer["code"], "2 came" in answer["message"]) == (400, True)


def test_a_failed_job_is_an_internal_error(running: Service) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    answer = running.client.post(ADDRESS, data=png(0)).get_json()
    assert (answer["code"], answer["type"]) == (500, "InternalServerException")


def test_what_is_polled_at_the_same_address_stays_as_it_was(running: Service) -> None:
    polled = running.client.post("/predict", data=form(png(255)), headers={"Prefer": "respond-async"})
    location = polled.headers["Location"]
    eventually(lambda: running.client.get(location).status_code == 200)
    assert running.client.get(location).get_json()["predictions"][0]["label"] == "bright"
    for method, status in (("GET", 404), ("DELETE", 404)):
        answer = running.client.open(ADDRESS, method=method)
        assert (answer.status_code, answer.get_json()["success"]) == (status, False)
    answer = running.client.post(location, data=png(0)).get_json()
    assert (answer["code"], answer["type"]) == (404, "ModelNotFoundException")


@pytest.mark.parametrize("changes", [{"name": "real"}])
def test_a_version_may_be_named(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    eventually(lambda: running.client.get("/readyz?model=real").status_code == 200)
    (served,) = [
        each["model_version"]
        for each in running.client.get("/models").get_json()["models"]
        if each["model"] == "real"
    ]
    for version in (served, int(served, 16)):
        assert running.client.put(f"/predictions/real/{version}", data=png(255)).status_code == 200
    monkeypatch.setattr(model_versions, "is_same", lambda *_: True)
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: [Result("id", "real", "00ff")])
    assert running.client.post("/predictions/real/1", data=png(255)).status_code == 503


@pytest.fixture
def answering(running: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Has the address answer one result of a model of a task: its response."""

    def answer(task: str, **fields: Any) -> Any:  # noqa: ANN401 - any field's
        result = Result("id", MODEL, "v1", **fields)
        view = model_versions.serving(running.app.extensions["jobs"], MODEL)
        view = replace(view, card=replace(CARD, task=task))
        monkeypatch.setattr(model_versions, "serving", lambda *_, **__: view)
        monkeypatch.setattr(predict, "outcomes", lambda *_, **__: [result])
        response = running.client.post(ADDRESS, data=png(0))
        monkeypatch.undo()
        return response

    return answer


def test_boxes_are_object_detector_s(answering: Callable[..., Any]) -> None:
    found = (Prediction("cat", "7", 0.75, box=(10, 20, 30, 40)),)
    assert answering("detection", predictions=found).get_json() == [{"cat": [10, 20, 40, 60], "score": 0.75}]
    assert answering("detection").get_json() == []


def test_other_tasks_answer_what_they_have(answering: Callable[..., Any]) -> None:
    assert answering("multi_label").get_json() == {}
    assert answering("embedding", embedding=(0.5, -0.5)).get_json() == [0.5, -0.5]
    assert answering("regression", values={"age": 34.5}).get_json() == {"age": 34.5}
    assert answering("raw", outputs={"0": RawOutput((1, 2), (1.0, 2.0))}).get_json() == {"0": [[1.0, 2.0]]}
    assert answering("classification", result={"own": 1}).get_json() == {"own": 1}
    cat = (Prediction("cat", "7", 0.75),)
    both = answering("classification", result={"own": 1}, predictions=cat).get_json()
    assert both == {"predictions": {"cat": 0.75}, "own": 1}
    drawn = answering("image", image=Pixels((2, 3, 1), bytes(6)))
    assert drawn.mimetype == "image/png"
    assert Image.open(io.BytesIO(drawn.data)).size == (3, 2)


def test_of_two_classes_with_one_name_the_better_counts(answering: Callable[..., Any]) -> None:
    found = (Prediction("crane", "1", 0.75), Prediction("crane", "2", 0.25))
    assert answering("classification", predictions=found).get_json() == {"crane": 0.75}


def test_ping_says_whether_a_model_is_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def ping() -> tuple[int, object]:
        response = service.client.get("/ping")
        return response.status_code, response.get_json()

    eventually(lambda: ping() == (500, {"status": "Unhealthy"}))
    service.start_worker()
    eventually(lambda: ping() == (200, {"status": "Healthy"}))

    def away(*_: object) -> None:
        raise BrokerUnavailable("Redis does not answer.")

    monkeypatch.setattr(service.app.extensions["jobs"].producer, "check_writable", away)
    assert ping() == (500, {"status": "Unhealthy"})


def test_livez_is_healthz(service: Service) -> None:
    live, health = service.client.get("/livez"), service.client.get("/healthz")
    assert (live.status_code, live.get_json()) == (200, health.get_json()) == (200, {"alive": True})


def test_a_status_has_its_type() -> None:
    assert torchserve.failure("m", 405).type == "MethodNotAllowedException"
    assert torchserve.failure("m", 504).type == "InternalServerException"


@pytest.mark.parametrize("environment", [{"CORS_ORIGINS": "https://a.example"}])
def test_a_page_may_put(running: Service) -> None:
    preflight = running.client.options(
        ADDRESS, headers={"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    )
    assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
