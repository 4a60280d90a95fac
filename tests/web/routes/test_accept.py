"""What a client takes decides what it gets: JSON, or its picture with the answer drawn on it."""

import io

import pytest
from PIL import Image
from werkzeug.test import TestResponse

from tests.support.fakes import MODEL
from tests.support.pictures import png
from tests.support.service import Service


def _post(service: Service, accept: str | None, *pictures: bytes, **headers: str) -> TestResponse:
    data = {"image": [(io.BytesIO(each), f"{at}.png") for at, each in enumerate(pictures or (png(255),))]}
    named = {"Accept": accept} if accept is not None else {}
    return service.client.post("/predict", data=data, headers={**named, **headers})


@pytest.mark.parametrize(
    "accept",
    [
        None,
        "",
        "*/*",
        "application/json",
        "application/*",
        "text/html",
        "application/json, image/png",
        "image/png;q=0.5, application/json",
        "image/png;q=0, */*",
        "image/*;q=0.1, */*;q=0.9",
        # What Chromium sends with a form.
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
        # And Firefox 128 to 131.
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,*/*;q=0.8",
    ],
)
def test_a_client_that_takes_anything_gets_json(running: Service, accept: str | None) -> None:
    response = _post(running, accept)
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.get_json()["predictions"][0]["label"] == "bright"
    assert "Accept" in response.vary


@pytest.mark.parametrize(
    "accept",
    [
        "image/png",
        "image/*",
        "IMAGE/PNG",
        "image/png, */*;q=0.1",
        "application/json;q=0.2, image/png",
        "text/html;q=0.5, image/png",
    ],
)
def test_a_client_that_would_rather_have_a_picture_gets_it(running: Service, accept: str) -> None:
    response = _post(running, accept, png(255, size=(600, 400)))
    assert (response.status_code, response.mimetype) == (200, "image/png")
    assert "Accept" in response.vary
    with Image.open(io.BytesIO(response.data)) as image:
        assert (image.format, image.size) == ("PNG", (600, 400))
        assert len(image.getcolors(100_000) or ()) > 2  # labels were written on the plain one
    assert (response.headers["X-Model"], response.headers["X-Model-Version"]) == (
        MODEL,
        running.worker.version,
    )
    assert "X-Notice" not in response.headers


def test_failures_stay_json(running: Service) -> None:
    response = _post(running, "image/png", b"no picture")
    assert (response.status_code, response.mimetype) == (400, "application/json")
    assert response.get_json()["error"]["code"] == "invalid_image"
    assert "Accept" in response.vary
    unknown = running.client.post(
        "/predict?model=none", data=png(1), content_type="image/png", headers={"Accept": "image/png"}
    )
    assert (unknown.status_code, unknown.mimetype) == (404, "application/json")


def test_a_picture_on_which_the_network_fails_is_json_too(running: Service) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("bad")

    running.engine.on_batch = fail
    response = _post(running, "image/png")
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "inference_failed")


def test_several_pictures_are_refused_before_any_is_run(running: Service) -> None:
    response = _post(running, "image/png", png(0), png(255))
    assert response.status_code == 400
    assert "shows one picture; 2 came in a list" in response.get_json()["error"]["message"]
    assert running.engine.batches == []


def test_a_drawn_answer_can_not_be_polled(running: Service) -> None:
    response = _post(running, "image/png", Prefer="respond-async")
    assert response.status_code == 400
    assert "can't be polled" in response.get_json()["error"]["message"]
    assert _post(running, "*/*", Prefer="respond-async").status_code == 202


def test_only_predict_varies(running: Service) -> None:
    assert "Accept" not in running.client.get("/models").vary
