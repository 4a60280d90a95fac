"""The Open Inference Protocol over gRPC, by a real server and a real client over a real Redis."""

import json
import threading
import time
from typing import Any, NoReturn

import grpc
import numpy as np
import pytest
import redis

from broker import codec
from broker.keys import Keys
from tests.support.fakes import LABELS, MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded, picture_tensor, read
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.server import RpcServer

DARK, BRIGHT = np.zeros((2, 2, 1), np.uint8), np.full((2, 2, 1), 255, np.uint8)


@pytest.fixture
def version(running: Service, client: redis.Redis, keys: Keys) -> str:
    """That of the worker's answers, which is not that of the card in these tests; with labels."""
    version = running.worker.spec.version
    client.set(keys.of(MODEL).labels(version), codec.encode_labels(LABELS))
    return version


def test_encoded_pictures_get_the_probability_of_every_label(rpc: RpcClient, version: str) -> None:
    answer = rpc.ask("ModelInfer", **encoded(png(0), png(255), png(128), png(0), png(255), id="mine"))
    assert (answer.model_name, answer.model_version, answer.id) == (MODEL, version, "mine")
    assert [(each.name, each.datatype) for each in answer.outputs] == [("probabilities", "FP32")]
    rows = read(answer)["probabilities"]
    assert rows.argmax(axis=1).tolist() == [0, 2, 1, 0, 2]


def test_answers_are_those_of_predict(running: Service, rpc: RpcClient) -> None:
    running.engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    plain = running.client.post("/predict?top=3", data=form(png(0))).get_json()["predictions"]
    by_label = {each["label"]: each["probability"] for each in plain}
    rows = read(rpc.ask("ModelInfer", **encoded(png(0))))["probabilities"]
    assert np.abs(rows[0] - [by_label[label.label] for label in LABELS]).max() <= 1e-6


def _pixels(*pictures: np.ndarray[Any, Any]) -> dict[str, Any]:
    stacked = np.stack(pictures)
    return {
        "inputs": [picture_tensor("UINT8", [*stacked.shape])],
        "raw_input_contents": [stacked.tobytes()],
    }


@pytest.mark.usefixtures("running")
def test_pixels_and_pictures_as_contents_and_raw(rpc: RpcClient) -> None:
    stacked = np.stack([BRIGHT, DARK])
    contents = {"uint_contents": stacked.ravel().tolist()}
    texts = {"bytes_contents": [png(255), png(0)]}
    for fields in (
        _pixels(BRIGHT, DARK),
        {"inputs": [picture_tensor("UINT8", [2, 2, 2, 1], contents=contents)]},
        {"inputs": [picture_tensor("BYTES", [2], contents=texts)]},
    ):
        rows = read(rpc.ask("ModelInfer", model_name=MODEL, **fields))["probabilities"]
        assert rows.argmax(axis=1).tolist() == [2, 0]


@pytest.mark.usefixtures("version")
def test_the_best_classes_are_told_as_triton_does(running: Service, rpc: RpcClient) -> None:
    running.engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    wanted = {"name": "probabilities", "parameters": {"classification": {"int64_param": 2}}}
    answer = rpc.ask("ModelInfer", **encoded(png(0), outputs=[wanted]))
    assert (answer.outputs[0].datatype, [*answer.outputs[0].shape]) == ("BYTES", [1, 2])
    assert answer.raw_output_contents[0] == b"\x0f\0\0\x000.700000:1:grey\x11\0\0\x000.200000:2:bright"


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"inputs": [], "raw_input_contents": []}, "INVALID_ARGUMENT", "the request has none"),
        ({"model_name": "other"}, "NOT_FOUND", "Unknown model 'other'"),
        ({"model_version": "7"}, "NOT_FOUND", "does not serve version '7'"),
        ({"raw_input_contents": [b"a", b"b"]}, "INVALID_ARGUMENT", "has its data once"),
        ({"raw_input_contents": [b"a"]}, "INVALID_ARGUMENT", "end within a length"),
        ({"inputs": [picture_tensor("BYTES", [2])]}, "INVALID_ARGUMENT", "the 2 elements of its shape"),
        ({"inputs": [picture_tensor("FP32", [1])]}, "INVALID_ARGUMENT", "not 'FP32'"),
        ({"inputs": [picture_tensor("BYTES", [1] * 20)]}, "INVALID_ARGUMENT", "is not accepted"),
        ({"inputs": [picture_tensor("BYTES", [1])] * 80}, "INVALID_ARGUMENT", "is not accepted"),
        (
            {"inputs": [picture_tensor("UINT8", [1, 3, 2, 1])], "raw_input_contents": [b"abcdef"]},
            "INVALID_ARGUMENT",
            "UINT8 has [n, 2, 2, 1] here",
        ),
        (
            {
                "inputs": [picture_tensor("UINT8", [1, 2, 2, 1], contents={"uint_contents": [0, 1, 2, 256]})],
                "raw_input_contents": [],
            },
            "INVALID_ARGUMENT",
            "from 0 to 255",
        ),
        (
            {
                "inputs": [picture_tensor("UINT8", [1, 2, 2, 1], contents={"uint_contents": [0] * 257})],
                "raw_input_contents": [],
            },
            "INVALID_ARGUMENT",
            "257 numbers",
        ),
        (
            {
                "inputs": [picture_tensor("BYTES", [65], contents={"bytes_contents": [b""] * 65})],
                "raw_input_contents": [],
            },
            "INVALID_ARGUMENT",
            "64 at most",
        ),
        ({"outputs": [{"name": "boxes"}]}, "INVALID_ARGUMENT", "it has probabilities"),
        ({"parameters": {"timeout": {"int64_param": -1}}}, "INVALID_ARGUMENT", "is not accepted"),
        ({"parameters": {"timeout": {"string_param": "1"}}}, "INVALID_ARGUMENT", "is not accepted"),
    ],
)
def test_requests_that_are_refused(rpc: RpcClient, fields: dict[str, Any], status: str, words: str) -> None:
    error = rpc.refused("ModelInfer", **(encoded(png(0)) | fields))
    assert (error.code().name, words in error.details()) == (status, True), error.details()


@pytest.mark.usefixtures("running")
def test_a_broken_picture_fails_the_request_and_is_named(rpc: RpcClient) -> None:
    error = rpc.refused("ModelInfer", **encoded(png(0), b"no picture"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Picture 2 of 2" in error.details()


def test_a_model_s_failure_is_internal(running: Service, rpc: RpcClient) -> None:
    def fail(_: object) -> NoReturn:
        raise ValueError("it broke")

    running.engine.network = fail
    assert rpc.refused("ModelInfer", **encoded(png(0))).code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("how", ["parameter", "deadline"])
def test_the_client_s_time_shortens_the_wait(service: Service, rpc: RpcClient, how: str) -> None:
    began = time.monotonic()  # no worker runs
    fields: dict[str, Any] = {"parameters": {"timeout": {"int64_param": 300_000}}}
    if how == "deadline":
        error = rpc.refused("ModelInfer", timeout=0.3, **encoded(png(0)))
    else:
        error = rpc.refused("ModelInfer", **encoded(png(0), **fields))
        assert "in 0.3 s" in error.details()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5
    assert service.engine.batches == []


def test_a_cancelled_call_cancels_its_job(
    service: Service, rpc: RpcClient, server: RpcServer, client: redis.Redis, keys: Keys
) -> None:
    queue = keys.of(MODEL)
    call = rpc.method("ModelInfer").future(pb.ModelInferRequest(**encoded(png(0))), timeout=20)
    eventually(lambda: client.llen(queue.queue) == 1)
    call.cancel()
    eventually(lambda: client.keys(queue.result("*")) == [])
    eventually(lambda: server.calls.in_flight == 0)
    assert service.engine.batches == []


@pytest.mark.usefixtures("version")
def test_what_clients_ask_first(rpc: RpcClient, client: redis.Redis, keys: Keys) -> None:
    client.set(keys.of(MODEL).labels("v1"), codec.encode_labels(LABELS))
    assert rpc.ask("ServerLive").live
    assert rpc.ask("ServerReady").ready
    assert rpc.ask("ModelReady", name=MODEL).ready
    assert rpc.ask("ModelReady", name=MODEL, version="v1").ready
    assert not _ready(rpc, "never")
    assert not _ready(rpc, "other")  # no error, as Triton has it
    assert not rpc.ask("ModelReady", name=MODEL, version="12").ready
    about = rpc.ask("ServerMetadata")
    assert (about.name, "classification" in about.extensions) == ("batchwire", True)
    told = rpc.ask("ModelMetadata", name=MODEL)
    assert [(each.name, each.datatype, [*each.shape]) for each in told.inputs] == [
        ("image", "UINT8", [-1, 2, 2, 1])
    ]
    assert [(each.name, [*each.shape]) for each in told.outputs] == [("probabilities", [-1, 3])]
    assert json.loads(told.properties["labels"]) == ["dark", "grey", "bright"]


def _ready(rpc: RpcClient, model: str) -> bool:
    return bool(rpc.ask("ModelReady", name=model).ready)


def test_what_triton_s_clients_ask_besides(running: Service, rpc: RpcClient) -> None:
    config = rpc.ask("ModelConfig", name=MODEL).config
    assert (config.name, config.max_batch_size, [*config.input[0].dims]) == (MODEL, 64, [2, 2, 1])
    over_http = running.client.get(f"/v2/models/{MODEL}/config").get_json()
    assert config.input[0].data_type == 2  # TYPE_UINT8
    assert over_http["input"][0]["data_type"] == "TYPE_UINT8"
    rpc.ask("ModelInfer", **encoded(png(0), png(0), png(0)))

    def is_same(name: str) -> bool:
        told = running.client.get(f"/v2/models/{MODEL}/stats").get_json()["model_stats"]
        answer = rpc.ask("ModelStatistics", name=name).model_stats
        return [(each["name"], each["inference_count"]) for each in told] == [
            (each.name, each.inference_count) for each in answer
        ]

    # Both are right, at different moments.
    eventually(lambda: is_same(""))
    eventually(lambda: is_same(MODEL))
    index = rpc.ask("RepositoryIndex").models
    assert [(each.name, each.state) for each in index] == [(MODEL, "READY")]
    assert [each.name for each in rpc.ask("RepositoryIndex", ready=True).models] == [MODEL]


def test_a_method_that_is_not_there_is_unimplemented(rpc: RpcClient) -> None:
    call = rpc.channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message(rpc: RpcClient) -> None:
    call = rpc.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff\xff\xff", timeout=10)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_many_clients_get_their_own_answers(rpc: RpcClient) -> None:
    wrong: list[object] = []

    def ask(value: int) -> None:
        for _ in range(10):
            best = read(rpc.ask("ModelInfer", **encoded(png(value))))["probabilities"].argmax()
            if best != value // 127:
                wrong.append((value, best))

    threads = [threading.Thread(target=ask, args=(value,)) for value in (0, 127, 254) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
