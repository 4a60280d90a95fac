"""The Open Inference Protocol over a real Redis and a worker in this process."""

import base64
import json
import resource
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis
from werkzeug.test import TestResponse

from broker import codec
from broker.errors import NoWorker, Overloaded
from broker.keys import Keys
from broker.messages import Prediction, Result
from tests.support.fakes import CARD, LABELS, MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from web.dialects import model_versions
from web.dialects.open_inference import infer
from web.dialects.open_inference.tensors import HEADER
from web.routes import predict

INFER = f"/v2/models/{MODEL}/infer"
DARK, BRIGHT = np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)


def _image(datatype: str, shape: list[int], **more: object) -> dict[str, object]:
    return {"name": "image", "datatype": datatype, "shape": shape, **more}


def _encoded(*pictures: bytes) -> dict[str, object]:
    return _image("BYTES", [len(pictures)], data=[base64.b64encode(each).decode() for each in pictures])


def _binary(request: dict[str, Any], blob: bytes) -> dict[str, Any]:
    body = json.dumps(request).encode()
    return {"data": body + blob, "headers": {HEADER: str(len(body))}}


def _read(response: TestResponse) -> dict[str, Any]:
    """The answer with each output's values as an array."""
    body, size = response.get_data(), int(response.headers.get(HEADER, "0"))
    answer: dict[str, Any] = json.loads(body[:size] if size else body)
    rest = body[size:]
    for output in answer["outputs"]:
        count = output.get("parameters", {}).get("binary_data_size")
        if count is None:
            output["values"] = np.array(output["data"]).reshape(output["shape"])
            continue
        blob, rest = rest[:count], rest[count:]
        kinds = {"FP32": "<f4", "INT64": "<i8"}
        if output["datatype"] in kinds:
            output["values"] = np.frombuffer(blob, kinds[output["datatype"]]).reshape(output["shape"])
        else:
            output["values"] = blob
    assert not size or not rest
    return answer


def _ask(service: Service, *inputs: dict[str, object], **more: object) -> TestResponse:
    return service.client.post(INFER, json={"inputs": [*inputs], **more})


@pytest.fixture
def version(running: Service, client: redis.Redis, keys: Keys) -> str:
    """That of the worker's answers, which is not that of the card in these tests; with labels."""
    version = running.worker.spec.version
    client.set(keys.of(MODEL).labels(version), codec.encode_labels(LABELS))
    return version


def test_encoded_pictures_get_the_probability_of_every_label(running: Service, version: str) -> None:
    response = _ask(running, _encoded(png(0), png(255)), id="mine")
    answer = _read(response)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (MODEL, version, "mine")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 3])
    assert output["values"].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert response.content_type == "application/json"


def test_probabilities_are_those_of_predict(running: Service) -> None:
    running.engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    plain = running.client.post("/predict?top=3", data=form(png(0))).get_json()["predictions"]
    by_label = {each["label"]: each["probability"] for each in plain}
    (output,) = _read(_ask(running, _encoded(png(0))))["outputs"]
    assert output["values"][0].tolist() == [by_label[label.label] for label in LABELS]


@pytest.mark.parametrize("is_nested", [True, False])
def test_pixels_in_json(running: Service, is_nested: bool) -> None:
    pixels = np.stack([BRIGHT, DARK])
    data = pixels.tolist() if is_nested else pixels.ravel().tolist()
    (output,) = _read(_ask(running, _image("UINT8", [2, 2, 2, 1], data=data)))["outputs"]
    assert output["values"].argmax(axis=1).tolist() == [2, 0]


def test_pixels_and_encoded_pictures_in_binary(running: Service) -> None:
    size = {"parameters": {"binary_data_size": 4}}
    pixels = {"inputs": [_image("UINT8", [1, 2, 2, 1], **size)]}
    (output,) = _read(running.client.post(INFER, **_binary(pixels, BRIGHT.tobytes())))["outputs"]
    assert output["values"].argmax() == 2
    blob = b"".join(struct.pack("<I", len(each)) + each for each in (png(0), png(255)))
    size = {"parameters": {"binary_data_size": len(blob)}}
    pictures = {
        "inputs": [_image("BYTES", [2, 1], **size)],
        "parameters": {"binary_data_output": True},
    }
    response = running.client.post(INFER, **_binary(pictures, blob))
    assert response.content_type == "application/octet-stream"
    (output,) = _read(response)["outputs"]
    assert output["values"].dtype == np.float32
    assert output["values"].argmax(axis=1).tolist() == [0, 2]


def test_an_output_says_itself_whether_it_is_binary(running: Service) -> None:
    named = {"name": "probabilities", "parameters": {"binary_data": False}}
    more = {"parameters": {"binary_data_output": True}, "outputs": [named]}
    assert HEADER not in _ask(running, _encoded(png(0)), **more).headers


@pytest.mark.parametrize(("body", "best"), [(png(255), 2), (DARK.tobytes(), 0)])
def test_a_raw_request_is_one_picture(running: Service, body: bytes, best: int) -> None:
    response = running.client.post(INFER, data=body, headers={HEADER: "0"})
    (output,) = _read(response)["outputs"]
    assert (output["shape"], output["values"].argmax()) == ([1, 3], best)


@pytest.mark.usefixtures("version")
def test_the_best_classes_are_told_as_triton_does(running: Service) -> None:
    running.engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    wanted = {"name": "probabilities", "parameters": {"classification": 2}}
    (output,) = _read(_ask(running, _encoded(png(0)), outputs=[wanted]))["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])
    assert output["data"] == ["0.700000:1:grey", "0.200000:2:bright"]


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"inputs": []}, 400, "one input, 'image'; the request has none"),
        ({"inputs": [{**_encoded(png(0)), "name": "input_1"}]}, 400, "the request has 'input_1'"),
        ({"inputs": [_image("FP32", [1, 2, 2, 1], data=[0.5] * 4)]}, 400, "not 'FP32'"),
        ({"inputs": [_image("UINT8", [1, 3, 2, 1], data=[0] * 6)]}, 400, "UINT8 has [n, 2, 2, 1] here"),
        (
            {"inputs": [_image("UINT8", [1, 2, 2, 1], data=[0, 1, 2])]},
            400,
            "not have the 4 whole numbers",
        ),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1], data=[0, 1, 2, 256])]}, 400, "from 0 to 255"),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1], data=[0, 1, 2, 0.5])]}, 400, "whole numbers"),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1], data=[[0, 1], 2, "x"])]}, 400, "whole numbers"),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1], data=[2**70, 1, 2, 3])]}, 400, "whole numbers"),
        ({"inputs": [_image("UINT8", [-1, 2, 2, 1], data=[])]}, 400, ">= 0"),
        ({"inputs": [_image("BYTES", [1, -1], data=[])]}, 400, ">= 0"),
        ({"inputs": [_image("UINT8", [0, 2, 2, 1], data=[])]}, 400, "1 to 64 pictures"),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1])]}, 400, "no binary_data_size"),
        ({"inputs": [_image("BYTES", [2], data=["AA=="])]}, 400, "the 2 elements of its shape [2]"),
        ({"inputs": [_image("BYTES", [1], data=[3])]}, 400, "strings in JSON"),
        ({"inputs": [_image("BYTES", [1], data=["not base64!"])]}, 400, "not base64"),
        ({"inputs": [_image("BYTES", [1], data=["http://x/y.jpg"])]}, 400, "no"),
        ({"inputs": [_encoded(b"no picture")]}, 400, "not a picture"),
        ({"inputs": [_encoded(png(0), b"no picture")]}, 400, "Picture 2 of 2: "),
        ({"inputs": [_encoded(b"%PDF-1.4")]}, 415, "PNG"),
        ({"inputs": [_encoded(png(0))], "outputs": [{"name": "logits"}]}, 400, "no output 'logits'"),
        ({"inputs": [_encoded(png(0))], "parameters": {"timeout": "soon"}}, 400, "$.parameters.timeout"),
        ({"inputs": [_encoded(png(0))], "outputs": [{"name": "probabilities"}] * 2}, 400, "twice"),
        ({"inputs": [_encoded(png(0))], "outputs": [{"name": "probabilities"}] * 17}, 400, "$.outputs"),
        ({"inputs": [_image("UINT8", [1] * 9, data=[])]}, 400, "shape"),
        ({"inputs": [_image("UINT8", [1, 2, 2, 1], data=[True, 0, 0, 0])]}, 400, "whole numbers"),
        ({"inputs": [_image("BYTES", [1], data=[["AA==", "AA=="]])]}, 400, "the 1 elements"),
        ({"inputs": [_encoded(png(0))], "parameters": {"timeout": 10**400}}, 400, "$.parameters.timeout"),
        ({"inputs": 3}, 400, "The request's JSON is not accepted"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_one_field(
    running: Service, request_: dict[str, Any], status: int, words: str
) -> None:
    response = running.client.post(INFER, json=request_)
    assert (response.status_code, list(response.get_json())) == (status, ["error"])
    assert words in response.get_json()["error"]
    assert running.engine.batches == [] or "Picture 2" in words


@pytest.mark.parametrize("header", ["-1", "x", "1000", "٣", "9" * 5000])
def test_a_header_that_is_no_length_within_the_body_is_refused(running: Service, header: str) -> None:
    response = running.client.post(INFER, data=b"{}", headers={HEADER: header})
    assert (response.status_code, HEADER in response.get_json()["error"]) == (400, True)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000 + b"]" * 100_000, b"[" + b'"",' * 60 + b'"' + b"x" * 100_000 + b'"]', b"[[],[]]", b"{}"],
)
def test_data_cost_no_more_than_their_bytes(running: Service, data: bytes) -> None:
    """Sixty strings, one of them long, became an array of 2 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind, shape in (("UINT8", b"[1,2,2,1]"), ("BYTES", b"[64]")):
        tensor = b'{"name":"image","datatype":"%b","shape":%b,"data":%b}' % (kind.encode(), shape, data)
        response = running.client.post(INFER, data=b'{"inputs":[%b]}' % tensor)
        assert (response.status_code, list(response.get_json())) == (400, ["error"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.usefixtures("version")
def test_an_answer_is_of_one_version_and_of_the_one_that_is_named(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*versions: str) -> list[Result]:
        return [Result("id", MODEL, each, scores=(0.5, 0.25, 0.25)) for each in versions]

    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: answer("v1", "v2"))
    response = _ask(running, _encoded(png(0), png(0)))
    assert (response.status_code, "send it again" in response.get_json()["error"]) == (503, True)
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: answer("v2"))
    named = running.client.post(f"/v2/models/{MODEL}/versions/v1/infer", json={"inputs": [_encoded(png(0))]})
    assert named.status_code == 503
    assert _ask(running, _encoded(png(0))).status_code == 200


def test_a_refusal_is_another_request_s_too_and_stays_as_it_is(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = Overloaded("3 pictures wait already.")
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: [refusal, refusal])
    response = _ask(running, _encoded(png(0), png(0)))
    assert response.get_json()["error"] == "Picture 1 of 2: 3 pictures wait already."
    assert refusal.message == "3 pictures wait already."
    assert response.headers["Retry-After"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "blob",
    [struct.pack("<I", 9) + b"short", b"\1\0", struct.pack("<I", 1) + b"a" + struct.pack("<I", 0)],
)
def test_elements_that_do_not_add_up_are_refused(running: Service, blob: bytes) -> None:
    request = {"inputs": [_image("BYTES", [1], parameters={"binary_data_size": len(blob)})]}
    response = running.client.post(INFER, **_binary(request, blob))
    assert (response.status_code, "error" in response.get_json()) == (400, True)


def test_a_client_s_own_timeout_shortens_the_deadline(service: Service) -> None:
    request = {"inputs": [_encoded(png(0))], "parameters": {"timeout": 200_000, "priority": 1}}
    response = service.client.post(INFER, json=request)
    assert response.status_code == 504
    assert "0.2 s" in response.get_json()["error"]


def test_metadata_config_and_statistics(running: Service) -> None:
    def get(path: str) -> Any:  # noqa: ANN401 - any JSON
        response = running.client.get(f"/v2{path}")
        assert response.status_code == 200
        return response.get_json()

    eventually(lambda: running.client.get("/v2/health/ready").status_code == 200)
    assert get("") == get("/")
    assert "binary_tensor_data" in get("")["extensions"]
    assert get("/health/live") == {"live": True}
    assert get("/health/ready") == {"ready": True, "live": True}
    assert get("/models") == {"models": [MODEL]}
    assert get(f"/models/{MODEL}/ready") == {"name": MODEL, "ready": True}
    model = get(f"/models/{MODEL}")
    assert model == get(f"/models/{MODEL}/versions/v1")
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 2, 2, 1]}]
    assert model["outputs"] == [
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [-1, 3],
            "parameters": {"labels": ["dark", "grey", "bright"]},
        }
    ]
    config = get(f"/models/{MODEL}/config")
    assert config["input"][0]["dims"] == [2, 2, 1]
    assert (config["output"][0]["data_type"], config["max_batch_size"]) == ("TYPE_FP32", 64)
    for path in (f"/models/{MODEL}/stats", "/models/stats"):
        (told,) = get(path)["model_stats"]
        assert (told["name"], told["inference_stats"]["fail"]) == (MODEL, {"count": 0, "ns": 0})
    (indexed,) = running.client.post("/v2/repository/index").get_json()
    assert (indexed["name"], indexed["state"]) == (MODEL, "READY")


def test_statistics_count_what_was_answered(running: Service) -> None:
    _ask(running, _encoded(png(0), png(0)))
    running.worker.status.announce()
    (told,) = running.client.get(f"/v2/models/{MODEL}/stats").get_json()["model_stats"]
    assert told["inference_count"] == 2
    # perf_analyzer reads it by std::stoll, and looks for what it has read.
    assert int(told["version"]) == model_versions.number("v1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", f"/v2/models/{MODEL}/versions/9", 404),
        ("POST", f"/v2/models/{MODEL}/versions/9/infer", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", f"/v2/models/{MODEL}/infer", 405),
        ("GET", "/v2/nothing", 404),
        ("POST", f"/v2/repository/models/{MODEL}/load", 400),
    ],
)
def test_other_failures_have_the_protocol_s_shape(
    running: Service, method: str, path: str, status: int
) -> None:
    response = running.client.open(path, method=method, json={})
    assert (response.status_code, list(response.get_json())) == (status, ["error"])


def test_without_a_worker_nothing_is_ready(service: Service) -> None:
    for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready"):
        response = service.client.get(path)
        assert response.status_code in (404, 503)
        assert list(response.get_json()) == ["error"]


def test_boxes_are_corners_and_short_answers_are_filled_up() -> None:
    def result(*found: Prediction) -> Result:
        return Result("id", MODEL, "v1", predictions=found)

    one = Prediction("bright", "2", 0.75, (10, 20, 30, 40))
    two = Prediction("dark", "0", 0.5, (0, 0, 5, 6))
    boxes, scores, classes = infer.detected([result(one, two), result(two), result()], LABELS)
    assert boxes.values[0].tolist() == [[10, 20, 40, 60], [0, 0, 5, 6]]
    assert (scores.values.tolist(), classes.values.tolist()) == (
        [[0.75, 0.5], [0.5, 0], [0, 0]],
        [[2, 0], [0, -1], [-1, -1]],
    )
    assert [each.datatype for each in (boxes, scores, classes)] == ["FP32", "FP32", "INT64"]
    # Its index is a box's place, which has no label.
    assert infer.best_classes(scores, 1, LABELS).values.tolist()[0] == [b"0.750000:0"]
    with pytest.raises(NoWorker, match="labels are not known yet"):
        infer.detected([result(one)], ())


def test_what_own_code_adds_is_one_more_output_where_none_is_named() -> None:
    results = [Result(str(n), MODEL, "v1", scores=(0.5, 0.5, 0.0), result={"own": n}) for n in (1, 2)]
    wanted = infer.wanted_outputs(None, CARD)
    outputs = infer.answered(CARD, results, LABELS, wanted, is_named=False)
    assert [(each.name, each.datatype, each.values.shape) for each in outputs] == [
        ("probabilities", "FP32", (2, 3)),
        ("result", "BYTES", (2, 1)),
    ]
    assert [*outputs[1].values.ravel()] == [b'{"own":1}', b'{"own":2}']
    assert len(infer.answered(CARD, results, LABELS, wanted, is_named=True)) == 1
    embedder = replace(CARD, task="embedding")
    empty, own = infer.answered(embedder, results, (), infer.wanted_outputs(None, embedder), is_named=False)
    assert (empty.values.shape, own.name) == ((2, 0), "result")
