"""`POST /predict` and `GET /predictions/<uuid>`, over a real Redis and a worker in this process."""

import contextlib
import io
import json
import threading
import uuid

import pytest
import redis

from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import InputSpec
from broker.producer import Producer
from pictures import fit
from pictures.fit import PreparedPicture
from settings import Settings
from tests.support.fakes import MODEL, SPEC, enqueue, job
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.app import create_app
from web.jobs import JobClient
from web.uploads.parameters import MAX_PICTURES

# By hand: Werkzeug's test client leaves out a line break where a file is empty.
EMPTY_FILE = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n\r\n--b--\r\n'


@pytest.mark.slow
def test_a_picture_is_answered(running: Service) -> None:
    response = running.client.post("/predict", data=form(png(255)))
    assert response.status_code == 200
    answer = response.get_json()
    assert answer["success"] is True
    assert answer["model"] == MODEL
    assert str(uuid.UUID(answer["id"])) == answer["id"]
    assert answer["predictions"] == [
        {"label": "bright", "class_id": "2", "probability": 1.0},
        {"label": "dark", "class_id": "0", "probability": 0.0},
    ]
    assert answer["batch_size"] == 1
    assert (answer["engine"], answer["precision"]) == ("fake", "fp32")
    assert set(answer["timings_ms"]) == {"waiting", "batch", "model"}
    assert list(answer)[:4] == ["success", "model", "id", "predictions"]


@pytest.mark.parametrize("field", ["image", "file", "img"])
def test_three_field_names_mean_the_same(running: Service, field: str) -> None:
    answer = running.client.post("/predict", data=form(png(0), field=field)).get_json()
    assert answer["predictions"][0]["label"] == "dark"


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/jpeg"])
def test_a_raw_body_is_taken(running: Service, kind: str) -> None:
    answer = running.client.post("/predict", data=png(128), content_type=kind).get_json()
    assert answer["predictions"][0]["label"] == "grey"


def test_model_and_top_come_from_the_query_or_theform(running: Service) -> None:
    by_query = running.client.post(f"/predict?model={MODEL}&top=3", data=form(png(0)))
    assert len(by_query.get_json()["predictions"]) == 3
    by_form = running.client.post("/predict", data={**form(png(0)), "model": MODEL, "top": "1"})
    assert len(by_form.get_json()["predictions"]) == 1


def test_several_pictures_are_answered_in_order_each_failing_alone(running: Service) -> None:
    response = running.client.post("/predict", data=form(png(0), b"no picture", png(255)))
    assert response.status_code == 200
    answer = response.get_json()
    assert answer["success"] is False
    first, second, third = answer["results"]
    assert first["predictions"][0]["label"] == "dark"
    assert second["error"]["code"] == "invalid_image"
    assert second["request_id"] == answer["request_id"] == response.headers["X-Request-ID"]
    assert third["predictions"][0]["label"] == "bright"


def test_when_every_picture_fails_the_status_is_the_first_one_s(running: Service) -> None:
    response = running.client.post("/predict", data=form(b"no", b"neither"))
    assert response.status_code == 400
    assert [each["error"]["code"] for each in response.get_json()["results"]] == ["invalid_image"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "kind", "status", "code", "words"),
    [
        (form(b"no picture"), None, 400, "invalid_image", "not a picture"),
        (form(png(0)[:40]), None, 400, "invalid_image", "broken or cut short"),
        (EMPTY_FILE, "multipart/form-data; boundary=b", 400, "invalid_image", "empty"),
        ({"photo": (io.BytesIO(b"x"), "x.png")}, None, 400, "bad_request", "Fields found: photo"),
        ({"image": "text"}, "multipart/form-data", 400, "bad_request", "an @ before the name"),
        (
            b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
            "bad_request",
            "Fields found: none",
        ),
        ({}, None, 400, "bad_request", "curl"),
        (b"", "image/png", 400, "invalid_image", "empty"),
        (b"<x/>", "text/xml", 415, "unsupported_format", "multipart/form-data"),
        (b"{}", "application/json", 400, "bad_request", "missing required field `image`"),
        (form(b"%PDF-1.4"), None, 415, "unsupported_format", "PNG"),
        (form(png(0, size=(400, 300))), None, 413, "too_large", "400 x 300"),
        (b"x" * 1_200_000, "image/png", 413, "too_large", "1 MB"),
    ],
)
@pytest.mark.parametrize("environment", [{"MAX_PIXELS": "100000", "MAX_UPLOAD_MB": "1"}])
def test_bad_input_costs_one_clear_4xx(
    running: Service, data: object, kind: str | None, status: int, code: str, words: str
) -> None:
    response = running.client.post("/predict", data=data, content_type=kind)
    answer = response.get_json()
    assert (response.status_code, answer["success"], answer["error"]["code"]) == (status, False, code)
    assert words in answer["error"]["message"]
    assert running.engine.batches == []


@pytest.mark.parametrize(
    "top", ["0", "4", "-1", "x", "1.5", "٣", "9" * 400, "000000001" + "9" * 5000, "00000000199"]
)
def test_a_top_that_can_not_be_is_refused(running: Service, top: str) -> None:
    response = running.client.post("/predict", data={**form(png(0)), "top": top})
    assert response.status_code == 400
    assert "from 1 to 3" in response.get_json()["error"]["message"]


def test_an_unknown_model_is_refused_with_those_that_there_are(running: Service) -> None:
    response = running.client.post("/predict?model=other", data=form(png(0)))
    assert response.status_code == 404
    assert response.get_json()["error"]["code"] == "unknown_model"
    assert f"never, {MODEL}" in response.get_json()["error"]["message"]


def test_a_model_that_is_still_starting_is_no_unknown_one(running: Service) -> None:
    response = running.client.post("/predict?model=never", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "no_worker")
    assert int(response.headers["Retry-After"]) >= 1


def test_too_many_pictures_at_once_are_refused(running: Service) -> None:
    response = running.client.post("/predict", data=form(*[png(0)] * (MAX_PICTURES + 1)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (400, "bad_request")
    assert running.engine.batches == []


@pytest.mark.parametrize("environment", [{"MAX_PIXELS": "1200"}])
def test_pictures_that_have_too_many_pixels_together_are_refused_and_not_decoded(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times MAX_PIXELS fit; what comes later and is small enough is answered."""
    large, small, too_large = png(0), png(0, size=(20, 30)), png(0, size=(41, 30))
    decoded: list[bytes] = []
    prepare = fit.prepare

    def counted(upload: bytes, spec: InputSpec, *, max_pixels: int) -> PreparedPicture:
        decoded.append(upload)
        return prepare(upload, spec, max_pixels=max_pixels)

    monkeypatch.setattr(fit, "prepare", counted)
    pictures = [small, large, too_large, large, large, large, b"no picture", small, large, small]
    response = running.client.post("/predict", data=form(*pictures))
    results = [each["error"]["code"] if "error" in each else "" for each in response.get_json()["results"]]
    assert results == [
        "",
        "",
        "too_large",
        "",
        "",
        "too_large",
        "invalid_image",
        "",
        "too_large",
        "too_large",
    ]
    assert decoded == [small, large, too_large, large, large, b"no picture", small]
    messages = [each["error"]["message"] for each in response.get_json()["results"] if "error" in each]
    assert "41 x 30 pixels; at most 1200" in messages[0]
    assert messages[1] == (
        "The pictures of a request may have 4800 pixels together, and those before this one leave 600. "
        "Send it in another request."
    )


def test_a_failed_picture_is_told_its_client(running: Service) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    response = running.client.post("/predict", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "inference_failed")


@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "2", "ASYNC_TIMEOUT_S": "60"}])
def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    enqueue(client, keys, job(), job())
    response = service.client.post("/predict", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "overloaded")
    assert int(response.headers["Retry-After"]) >= 1
    assert client.llen(keys.of(MODEL).queue) == 2


@pytest.mark.parametrize("environment", [{"WEB_THREADS": "10", "REQUEST_TIMEOUT_S": "60"}])
def test_a_web_process_keeps_threads_for_health_checks(service: Service) -> None:
    waiting = [
        threading.Thread(
            target=service.app.test_client().post, args=("/predict",), kwargs={"data": form(png(0))}
        )
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    jobs: JobClient = service.app.extensions["jobs"]
    eventually(lambda: len(jobs.replies._waiters) == 2)
    response = service.client.post("/predict", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (503, "overloaded")
    assert service.client.get("/healthz").status_code == 200
    service.start_worker()
    for thread in waiting:
        thread.join(20)
    assert service.client.post("/predict", data=form(png(0))).status_code == 200


def test_the_wrong_verb_is_405_and_names_the_right_one(running: Service) -> None:
    response = running.client.get("/predict")
    assert (response.status_code, response.get_json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in response.headers["Allow"]


@pytest.mark.parametrize("pictures", [1, 2])
def test_every_503_says_when_to_come_back(
    service: Service, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    def away(*_: object, **__: object) -> None:
        raise BrokerUnavailable("away", retry_after_s=7)

    monkeypatch.setattr(Producer, "take_or_cancel", away)
    monkeypatch.setattr(JobClient, "_failure", lambda *_: "away")
    response = service.client.post("/predict", data=form(*[png(0)] * pictures))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")


@pytest.mark.parametrize("environment", [{"QUEUE_LIMIT": "1"}])
def test_what_the_queue_has_no_room_for_is_not_decoded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.client.post("/predict", data=form(png(0)), headers={"Prefer": "respond-async"})
    monkeypatch.setattr(fit, "prepare", lambda *_, **__: pytest.fail("it was decoded"))
    assert service.client.post("/predict", data=form(png(0))).status_code == 503


def test_the_job_in_redis_is_a_fitted_uint8_picture(
    service: Service, client: redis.Redis, keys: Keys
) -> None:
    service.client.post(
        "/predict",
        data=form(png(7)),
        headers={"Prefer": "respond-async", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
    )
    queued = client.lindex(keys.of(MODEL).polled, 0)
    assert queued is not None
    job = json.loads(queued)
    assert job["image"] == "BwcHBw=="
    assert job["shape"] == list(SPEC.shape)
    assert job["original_size"] == [40, 30]
    assert job["reply_to"] is None
    assert job["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-01"


def test_an_unexpected_error_is_a_500_in_the_same_shape(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobClient, "submit_once", lambda *_, **__: 1 / 0)
    response = running.client.post("/predict", data=form(png(0)))
    assert (response.status_code, response.get_json()["error"]["code"]) == (500, "internal")
    assert "division" not in response.get_data(as_text=True)


def test_a_container_decodes_on_the_cores_that_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.server.capacity.usable_cores", lambda: 3)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    settings = Settings.from_env({"REDIS_URL": "redis://localhost", "MODELS": MODEL})
    decoders = create_app(settings).extensions["jobs"]._decoders
    with contextlib.ExitStack() as held:
        given = [held.enter_context(decoders.place(timeout_s=0)) for _ in range(4)]
    assert given == [True, True, True, False]
