"""`/v1/models`: TensorFlow Serving's and KServe's REST, over a real Redis and a worker in this process."""

import base64
import gzip
import io
import json
import resource
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from broker import codec
from broker.keys import Keys
from broker.messages import Fit, InputSpec, State, WorkerState
from model_server.catalogue.model_spec import Label
from model_server.tasks import TASKS
from model_server.tasks.embedding import Embedding
from model_server.tasks.image import ImageTable
from model_server.tasks.multi_label import MultiLabel
from tests.support import fakes
from tests.support.fakes import MODEL
from tests.support.pictures import encoded, form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.dialects import model_versions

PREDICT = f"/v1/models/{MODEL}:predict"
CLASSIFY = f"/v1/models/{MODEL}:classify"
REGRESS = f"/v1/models/{MODEL}:regress"

DARK, BRIGHT = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]


def b64(content: bytes) -> dict[str, str]:
    """A picture as TensorFlow Serving takes bytes."""
    return {"b64": base64.b64encode(content).decode()}


def asked(service: Service, path: str, body: object, status: int = 200) -> Any:  # noqa: ANN401 - JSON
    response = service.client.post(path, json=body)
    assert response.status_code == status, response.get_data(as_text=True)
    return response.get_json()


def refused(service: Service, path: str, body: object, status: int = 400) -> str:
    answer = asked(service, path, body, status)
    assert list(answer) == ["error"]
    message: str = answer["error"]
    return message


def test_rows_are_answered_by_rows(running: Service) -> None:
    rows = [b64(png(255)), {"image": b64(png(0))}, {"image_bytes": b64(png(255))}, b64(png(0))["b64"]]
    assert asked(running, PREDICT, {"instances": rows}) == {"predictions": [BRIGHT, DARK, BRIGHT, DARK]}


@pytest.mark.parametrize(
    "inputs",
    [
        [b64(png(255)), b64(png(0))],
        {"image": [b64(png(255)), b64(png(0))]},
        {"input_1": [[[[255], [255]], [[255], [255]]], [[[0], [0]], [[0], [0]]]]},
    ],
)
def test_a_column_is_answered_by_a_column(running: Service, inputs: object) -> None:
    body = {"signature_name": "serving_default", "inputs": inputs}
    assert asked(running, PREDICT, body) == {"outputs": [BRIGHT, DARK]}


@pytest.mark.parametrize("inputs", [b64(png(255)), {"image": b64(png(255))}])
def test_one_picture_is_a_column_of_one(running: Service, inputs: object) -> None:
    assert asked(running, PREDICT, {"inputs": inputs}) == {"outputs": [BRIGHT]}


def test_pixels_reach_the_network_as_they_are(running: Service) -> None:
    seen: list[list[object]] = []
    running.engine.on_batch = lambda batch: seen.append(batch.tolist())
    pixels = [[[7], [0]], [[255], [128.0]]]
    assert asked(running, PREDICT, {"instances": [pixels]}) == {"predictions": [[0.0, 1.0, 0.0]]}
    assert asked(running, PREDICT, {"instances": [[[7, 0], [255, 128]]]}) == {
        "predictions": [[0.0, 1.0, 0.0]]
    }
    assert seen == [[pixels]] * 2


@pytest.mark.parametrize("changes", [{"name": "real", "input": InputSpec(4, 3, 3, Fit.CROP)}])
def test_a_picture_and_its_own_pixels_are_the_same(running: Service) -> None:
    eventually(lambda: running.client.get("/readyz?model=real").status_code == 200)
    pixels = np.random.default_rng(5).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    running.engine.network = lambda batch: ((batch.reshape(len(batch), -1)[:, 5:8] / 765).astype(np.float32),)
    rows = [pixels.tolist(), b64(encoded(Image.fromarray(pixels)))]
    answers = asked(running, "/v1/models/real:predict", {"instances": rows})["predictions"]
    assert answers == [pytest.approx(pixels.ravel()[5:8] / 765, abs=1e-6)] * 2


def test_the_probabilities_are_those_of_predict(running: Service) -> None:
    logits = np.random.default_rng(6).random(3).astype(np.float32)
    running.engine.network = lambda batch: (np.stack([logits / logits.sum()] * len(batch)),)
    (row,) = asked(running, PREDICT, {"instances": [b64(png(3))]})["predictions"]
    listed = running.client.post("/predict?top=3", data=form(png(3))).get_json()["predictions"]
    labels = [label.label for label in fakes.LABELS]
    assert row == pytest.approx(
        [next(each["probability"] for each in listed if each["label"] == label) for label in labels], abs=1e-6
    )
    assert asked(running, f"{CLASSIFY}?top=3", {"examples": [{"image": b64(png(3))}]}) == {
        "results": [[[each["label"], pytest.approx(each["probability"], abs=1e-6)] for each in listed]]
    }


def test_a_body_may_be_gzipped(running: Service) -> None:
    body = gzip.compress(json.dumps({"instances": [b64(png(255))]}).encode())
    response = running.client.post(PREDICT, data=body, headers={"Content-Encoding": "gzip"})
    assert (response.status_code, response.get_json()) == (200, {"predictions": [BRIGHT]})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, 'one of "instances"'),
        ({"instances": [b64(png(0))], "inputs": [b64(png(0))]}, 'one of "instances"'),
        ({"x": 1}, 'one of "instances"'),
        ({"instances": []}, "0 pictures"),
        ({"instances": [b64(png(0))] * 65}, "65 pictures"),
        ({"instances": b64(png(0))}, "not accepted"),
        ({"instances": [{"a": b64(png(0)), "b": 1}]}, "something else"),
        ({"instances": [{"b64": 5}]}, "something else"),
        ({"instances": [None]}, "something else"),
        ({"instances": [{"b64": "%"}]}, "not base64"),
        ({"instances": [{"b64": "http://a.example/cat.jpg"}]}, "address"),
        ({"instances": [b64(png(0)), b64(b"text")]}, "Picture 1: The upload is not a picture"),
        ({"instances": [b64(b"%PDF-1.4")]}, "Picture 0: This is a PDF"),
        ({"instances": [[[0.5, 0], [0, 0]]]}, "whole numbers from 0 to 255"),
        ({"instances": [[[256, 0], [0, 0]]]}, "whole numbers from 0 to 255"),
        ({"instances": [[[-1, 0], [0, 0]]]}, "whole numbers from 0 to 255"),
        ({"instances": [[[0, 0, 0]]]}, "[2][2][1] (height, width, channels)"),
        ({"instances": [[[0, 0], [0]]]}, "rows of the same length"),
        ({"instances": [[["0", "0"], ["0", "0"]]]}, "rows of the same length"),
        ({"instances": [[]]}, "[2][2][1] (height, width, channels)"),
        ({"instances": [[[10**400, 0], [0, 0]]]}, "rows of the same length"),
        ({"instances": [b64(png(0))], "signature_name": "other"}, "serving_default"),
    ],
)
def test_what_is_no_picture_fails_the_request(running: Service, body: object, words: str) -> None:
    assert words in refused(running, PREDICT, body)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"instances": [' + b"[" * 1300, b"\xff"])
def test_what_is_no_json_is_refused(running: Service, body: bytes) -> None:
    response = running.client.post(PREDICT, data=body)
    assert (response.status_code, list(response.get_json())) == (400, ["error"])


@pytest.mark.slow
def test_a_body_costs_no_more_than_its_bytes(running: Service) -> None:
    """Sixty strings, one of them long, became an array of 2 GB; 20 MB of arrays took 10 s."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long = ",".join(['""'] * 60 + ['"' + "x" * 100_000 + '"'])
    for inner in (",".join(["[]"] * 2000), ",".join(["{}"] * 2000), long, "[" * 900 + "]" * 900):
        response = running.client.post(PREDICT, data=f'{{"instances": [[{inner}]]}}')
        assert (response.status_code, list(response.get_json())) == (400, ["error"])
    many = ",".join(f'"{number}": 1' for number in range(9))
    response = running.client.post(PREDICT, data=f'{{"instances": [{{{many}}}]}}')
    assert (response.status_code, "more than 8 names" in response.get_json()["error"]) == (400, True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    pixels = [[[0], [0]], [[0], [0]]]
    answer = asked(running, PREDICT, {"instances": [{"image": pixels}] * 64})
    assert answer["predictions"] == [DARK] * 64


def test_a_failed_job_has_its_status(running: Service) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    refused(running, PREDICT, {"instances": [b64(png(0))]}, 500)


@pytest.mark.parametrize(("model", "status"), [("other", 404), ("never", 503)])
@pytest.mark.parametrize("method", ["predict", "classify", "regress"])
def test_a_model_that_can_t_be_asked_is_refused(
    running: Service, model: str, status: int, method: str
) -> None:
    response = running.client.post(f"/v1/models/{model}:{method}", json={})
    assert (response.status_code, list(response.get_json())) == (status, ["error"])
    assert ("Retry-After" in response.headers) is (status == 503)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/tiny:explain"),
        ("GET", "/v1/models/tiny:explain"),
        ("PUT", "/v1/models/tiny/"),
        ("GET", "/v1/nothing/at/all"),
        ("DELETE", "/v1/"),
    ],
)
def test_other_addresses_are_malformed_requests(service: Service, method: str, path: str) -> None:
    response = service.client.open(path, method=method)
    assert (response.status_code, response.get_json()) == (
        400,
        {"error": f"Malformed request: {method} {path}"},
    )


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PREDICT, {"POST", "OPTIONS"}),
        ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", f"/v1/models/{MODEL}", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_another_method_is_refused_and_the_right_one_named(
    service: Service, method: str, path: str, allowed: set[str]
) -> None:
    response = service.client.open(path, method=method)
    assert (response.status_code, list(response.get_json())) == (405, ["error"])
    assert set(response.headers["Allow"].split(", ")) == allowed
    options = service.client.options(path)
    assert set(options.headers["Allow"].split(", ")) == allowed


class TestVersions:
    """Those of a model whose card is its own; the tiny one's has a made-up version."""

    @pytest.fixture
    def changes(self) -> dict[str, object]:
        return {"name": "real"}

    @pytest.fixture
    def version(self, running: Service) -> str:
        """The model's version as /models has it, once it is ready."""
        eventually(lambda: running.client.get("/readyz?model=real").status_code == 200)
        models = running.client.get("/models").get_json()["models"]
        found: str = next(each["model_version"] for each in models if each["model"] == "real")
        return found

    def test_one_may_be_named(self, running: Service, version: str) -> None:
        number = int(version, 16)
        body, answer = {"instances": [b64(png(255))]}, {"predictions": [BRIGHT]}
        for place in (f"versions/{number}", f"versions/{version}", "labels/latest"):
            assert asked(running, f"/v1/models/real/{place}:predict", body) == answer
        for place in ("versions/1", "versions/x", "labels/stable"):
            message = refused(running, f"/v1/models/real/{place}:predict", body, 404)
            assert place.split("/")[1] in message
            for address in (f"/v1/models/real/{place}", f"/v1/models/real/{place}/metadata"):
                assert running.client.get(address).status_code == 404
        examples = {"examples": [{"image": b64(png(255))}]}
        assert asked(running, f"/v1/models/real/versions/{number}:classify", examples)["results"]
        assert running.client.get(f"/v1/models/real/versions/{number}/metadata").status_code == 200

    def test_they_are_listed_with_their_states(self, running: Service, version: str) -> None:
        number = str(int(version, 16))
        available = {
            "version": number,
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        for address in ("real", f"real/versions/{number}", "real/labels/latest"):
            assert running.client.get(f"/v1/models/{address}").get_json() == {
                "name": "real",
                "ready": True,
                "model_version_status": [available],
            }

    def test_each_has_the_state_of_its_best_worker(
        self, running: Service, version: str, client: redis.Redis, keys: Keys
    ) -> None:
        states, workers = keys.of("real").states, keys.of("real").workers
        for name, state, each in (
            ("1", WorkerState.LOADING, "00ff"),
            ("2", WorkerState.FAILED, "00ff"),
            ("3", WorkerState.FAILED, "0100"),
            ("4", WorkerState.DRAINING, "0101"),
        ):
            client.hset(states, name, codec.encode(State(state, each, reason="broken")))
            client.zadd(workers, {name: client.time()[0] + 60})
        listed = running.client.get("/v1/models/real").get_json()["model_version_status"]
        assert listed[0]["version"] == str(int(version, 16))
        assert {each["version"]: each["state"] for each in listed[1:]} == {
            "255": "LOADING",
            "256": "END",
            "257": "UNLOADING",
        }
        (failed,) = [each["status"] for each in listed if each["state"] == "END"]
        assert failed == {"error_code": "UNAVAILABLE", "error_message": "broken"}
        (one,) = running.client.get("/v1/models/real/versions/256").get_json()["model_version_status"]
        assert one["status"] == failed

    def test_an_answer_of_another_version_is_none(
        self, running: Service, version: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        serving = model_versions.serving

        def replaced(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as it is called
            view = serving(*arguments, **options)
            return replace(view, card=replace(view.card, model_version="00ff"))

        monkeypatch.setattr(model_versions, "serving", replaced)
        body = {"instances": [b64(png(255))]}
        response = running.client.post(f"/v1/models/real/versions/{version}:predict", json=body)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        assert asked(running, "/v1/models/real:predict", body) == {"predictions": [BRIGHT]}


def test_a_version_is_a_number_that_every_client_can_hold() -> None:
    assert model_versions.number("0123456789ab") == 0x0123456789AB
    assert model_versions.number("f" * 12) < 2**53
    assert model_versions.number("v1") != model_versions.number("v2")
    assert model_versions.is_same("255", "0000000000ff")
    assert model_versions.is_same("0000000000ff", "0000000000ff")
    assert not model_versions.is_same("ff", "0000000000ff")
    assert not model_versions.is_same("256", "0000000000ff")


def test_a_model_that_no_worker_has_announced_has_no_version(service: Service) -> None:
    response = service.client.get("/v1/models/never")
    expected = {"name": "never", "ready": False, "model_version_status": []}
    assert (response.status_code, response.get_json()) == (200, expected)
    assert service.client.get("/v1/models/never/versions/1").status_code == 404
    assert service.client.get("/v1/models/never/metadata").status_code == 503
    for address in ("/v1/models/other", "/v1/models/other/metadata"):
        response = service.client.get(address)
        assert (response.status_code, list(response.get_json())) == (404, ["error"])


def test_models_are_listed_by_name(running: Service) -> None:
    eventually(lambda: running.client.get(f"/v1/models/{MODEL}").get_json().get("ready") is True)
    assert running.client.get("/v1/models").get_json() == {"models": [MODEL]}


def test_metadata_are_a_signature(running: Service) -> None:
    answer = running.client.get(f"/v1/models/{MODEL}/metadata").get_json()
    assert answer["model_spec"] == {"name": MODEL, "signature_name": "", "version": "30257"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"] == {
        "image_bytes": {
            "dtype": "DT_STRING",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
            "name": "image_bytes:0",
        }
    }
    (output,) = signature["outputs"].values()
    assert [each["size"] for each in output["tensor_shape"]["dim"]] == ["-1", "3"]


@pytest.mark.parametrize(
    "changes", [{"task": TASKS["multi_label"], "options": MultiLabel(0.5, {}), "top": 3}]
)
def test_several_labels_have_all_their_probabilities(running: Service) -> None:
    numbers = np.array([0.6, 0.8, 0.25], np.float32)
    running.engine.network = lambda batch: (np.stack([numbers] * len(batch)),)
    (row,) = asked(running, PREDICT, {"instances": [b64(png(0))]})["predictions"]
    assert row == pytest.approx([0.6, 0.8, 0.25], abs=1e-6)
    (classes,) = asked(running, CLASSIFY, {"examples": [{"image": b64(png(0))}]})["results"]
    assert [label for label, _ in classes] == ["grey", "dark"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"task": TASKS["regression"], "labels": (Label("0", "age"), Label("1", "height"))}]
)
def test_numbers_come_in_the_labels_order(running: Service) -> None:
    running.engine.network = lambda batch: (np.array([[34.5, -2.0]] * len(batch), np.float32),)
    assert asked(running, PREDICT, {"instances": [b64(png(0))] * 2})["predictions"] == [[34.5, -2.0]] * 2
    assert "no signature for :regress" in refused(running, REGRESS, {"examples": [b64(png(0))]}, 404)
    assert "no signature for :classify" in refused(running, CLASSIFY, {"examples": [b64(png(0))]}, 404)


@pytest.mark.parametrize(
    "changes", [{"name": "real", "task": TASKS["regression"], "labels": (Label("0", "age"),)}]
)
def test_one_number_is_a_regression(running: Service) -> None:
    eventually(lambda: running.client.get("/readyz?model=real").status_code == 200)
    running.engine.network = lambda batch: (np.array([[34.5]] * len(batch), np.float32),)
    examples = {"examples": [{"image": b64(png(0))}, {"image": b64(png(9))}]}
    assert asked(running, "/v1/models/real:regress", examples) == {"results": [34.5, 34.5]}
    rows = {"instances": [b64(png(0))]}
    assert asked(running, "/v1/models/real:predict", rows) == {"predictions": [[34.5]]}


@pytest.mark.parametrize("changes", [{"task": TASKS["embedding"], "options": Embedding(), "labels": ()}])
def test_a_vector_is_the_one_output(running: Service) -> None:
    running.engine.network = lambda batch: (np.array([[3, 0, -4]] * len(batch), np.float32),)
    (row,) = asked(running, PREDICT, {"instances": [b64(png(0))]})["predictions"]
    assert row == pytest.approx([0.6, 0, -0.8], abs=1e-6)


@pytest.mark.parametrize("changes", [{"task": TASKS["image"], "options": ImageTable("unit"), "labels": ()}])
def test_a_picture_that_was_made_comes_in_base64(running: Service) -> None:
    running.engine.network = lambda batch: (np.ones((len(batch), 4, 5, 3), np.float32),)
    (row,) = asked(running, PREDICT, {"instances": [b64(png(0))]})["predictions"]
    with Image.open(io.BytesIO(base64.b64decode(row["b64"]))) as made:
        assert made.size == (5, 4)


@pytest.mark.parametrize("changes", [{"task": TASKS["raw"], "labels": ()}])
def test_several_outputs_are_objects_by_rows_and_by_columns(running: Service) -> None:
    one, other = np.array([[1, 2], [3, 4]], np.float32), np.array([5], np.float32)
    running.engine.network = lambda batch: tuple(np.stack([each] * len(batch)) for each in (one, other))
    whole = {"0": [[1.0, 2.0], [3.0, 4.0]], "1": [5.0]}
    assert asked(running, PREDICT, {"instances": [b64(png(0))] * 2}) == {"predictions": [whole, whole]}
    columns = {name: [value, value] for name, value in whole.items()}
    assert asked(running, PREDICT, {"inputs": [b64(png(0))] * 2}) == {"outputs": columns}
    assert "no signature for :classify" in refused(running, CLASSIFY, {"examples": [b64(png(0))]}, 404)
