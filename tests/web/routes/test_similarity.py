"""`POST /similarity`: two pictures, their vectors' cosine, and who may be asked."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from werkzeug.test import TestResponse

from broker.errors import ClientError
from model_server.engines import Outputs
from model_server.tasks import TASKS
from model_server.tasks.embedding import Embedding
from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service
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


def test_a_classifier_is_not_asked(running: Service) -> None:
    for query in ({}, {"model": MODEL}):
        response = _ask(running, png(0), png(0), **query)
        assert response.status_code == 400
        assert "Models that do: none" in response.get_json()["error"]["message"]
    assert running.engine.batches == []


def test_a_vector_without_direction_is_like_nothing() -> None:
    assert cosine((0.0, 0.0), (1.0, 0.0)) == 0
    assert cosine((3.0, 4.0), (-6.0, -8.0)) == pytest.approx(-1)
    with pytest.raises(ClientError, match="replaced"):
        cosine((1.0,), (1.0, 0.0))
