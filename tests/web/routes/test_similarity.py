"""`POST /similarity`: two pictures, their vectors' cosine, and who may be asked."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray
from werkzeug.test import TestResponse

from broker.keys import Keys
from broker.messages import Result, State, WorkerState
from model_server.engines.engine import Outputs
from model_server.tasks import TASKS
from model_server.tasks.embedding import Embedding
from tests.support import fakes
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.routes import predict
from web.routes.similarity import cosine

EMBEDDING = {"task": TASKS["embedding"], "options": Embedding(), "labels": ()}


def _slopes(batch: NDArray[np.uint8]) -> Outputs:
    """A vector whose direction turns by 90 degrees from black to white."""
    angles = batch.reshape(len(batch), -1).mean(axis=1) / 255 * np.pi / 2
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),)


def _ask(service: Service, *pictures: bytes, **query: str) -> TestResponse:
    service.engine.network = _slopes
    files = [(io.BytesIO(picture), "x.png") for picture in pictures]
    return service.client.post("/similarity", data={"image": files}, query_string=query)


@pytest.mark.parametrize("changes", [EMBEDDING])
@pytest.mark.parametrize(("values", "right"), [((0, 0), 1.0), ((0, 255), 0.0), ((0, 85), np.cos(np.pi / 6))])
def test_it_is_the_cosine(running: Service, values: tuple[int, int], right: float) -> None:
    response = _ask(running, *map(png, values))
    assert response.status_code == 200
    answer: dict[str, Any] = response.get_json()
    assert answer["similarity"] == pytest.approx(right, abs=1e-6)
    assert (answer["success"], answer["model"], len(set(answer["ids"]))) == (True, MODEL, 2)


@pytest.mark.parametrize("changes", [EMBEDDING])
def test_two_pictures_are_compared_and_each_must_be_sound(running: Service) -> None:
    assert _ask(running, png(0)).status_code == 400
    response = _ask(running, png(0), png(0), png(0))
    assert response.status_code == 400
    assert "3 came" in response.get_json()["error"]["message"]
    response = _ask(running, png(0), b"no picture")
    assert response.status_code == 400
    assert response.get_json()["error"]["message"].startswith("The second picture: ")
    assert response.get_json()["error"]["code"] == "invalid_image"


@pytest.mark.parametrize("changes", [EMBEDDING])
def test_another_default_leaves_it_to_the_model_that_gives_embeddings(running: Service) -> None:
    running.app.extensions["jobs"].models.default = "never"
    assert _ask(running, png(0), png(0)).get_json()["model"] == MODEL
    assert _ask(running, png(0), png(0), model="none").status_code == 404


@pytest.mark.parametrize("changes", [EMBEDDING])
def test_vectors_of_two_versions_are_not_compared(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict.outcomes

    def of_two_versions(*arguments: Any, **options: Any) -> list[Any]:  # noqa: ANN401
        one, other = whole(*arguments, **options)
        assert isinstance(other, Result)
        return [one, replace(other, model_version="another")]

    monkeypatch.setattr(predict, "outcomes", of_two_versions)
    response = _ask(running, png(0), png(0))
    assert response.status_code == 503
    assert "Retry-After" in response.headers
    assert "replaced between" in response.get_json()["error"]["message"]


@pytest.mark.parametrize("changes", [EMBEDDING])
def test_a_model_that_is_ready_is_asked_before_one_that_is_not(
    running: Service, client: redis.Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.app.extensions["jobs"].models.default = "never"
    monkeypatch.setattr(fakes, "CARD", replace(fakes.CARD, model="a-first", task="embedding"))
    other = fakes.lease(client, keys)
    other.register(State(WorkerState.FAILED, "v1", reason="broken"))
    models = running.app.extensions["jobs"].registry.models
    # While the other still loads, as here it may, neither is ready.
    eventually(lambda: "a-first" in models() and models()[MODEL].state is WorkerState.READY)
    assert _ask(running, png(0), png(0)).get_json()["model"] == MODEL


def test_a_classifier_is_not_asked(running: Service) -> None:
    for query in ({}, {"model": MODEL}):
        response = _ask(running, png(0), png(0), **query)
        assert response.status_code == 404
        assert "Models that do: none" in response.get_json()["error"]["message"]
    assert running.engine.batches == []


def test_a_vector_without_direction_is_like_nothing() -> None:
    assert cosine((0.0, 0.0), (1.0, 0.0)) == 0
    assert cosine((3.0, 4.0), (-6.0, -8.0)) == pytest.approx(-1)
