"""TensorFlow Serving's gRPC, by a real server and a real client over a real Redis."""

import tracemalloc
from typing import Any

import grpc
import numpy as np
import pytest
import redis

from broker import codec
from broker.keys import Keys
from broker.messages import Fit, InputSpec
from tests.support.fakes import LABELS, MODEL
from tests.support.pictures import form, png
from tests.support.service import Service
from tests.web.rpc.client import RpcClient
from web.dialects import model_versions
from web.dialects.named_outputs import OutputSignature
from web.rpc import tf_tensors
from web.rpc.protos import tensorflow_serving_pb2 as tf

SPEC = {"name": MODEL}
PIXELS = np.stack([np.full((2, 2, 1), 255, np.uint8), np.zeros((2, 2, 1), np.uint8)])


@pytest.fixture
def version(running: Service, client: redis.Redis, keys: Keys) -> str:
    """That of the worker's answers, which is not that of the card in these tests; with labels."""
    version = running.worker.spec.version
    client.set(keys.of(MODEL).labels(version), codec.encode_labels(LABELS))
    return version


def _shape(*sides: int) -> dict[str, Any]:
    return {"dim": [{"size": side} for side in sides]}


def _strings(*texts: bytes, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    sides = (len(texts),) if shape is None else shape
    return {"dtype": tf.DT_STRING, "tensor_shape": _shape(*sides), "string_val": texts}


def _values(tensor: tf.TensorProto) -> np.ndarray[Any, Any]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == tf.DT_STRING:
        return np.array([*tensor.string_val], object).reshape(shape)
    kind = {tf.DT_FLOAT: "<f4", tf.DT_INT64: "<i8"}[tensor.dtype]
    return np.frombuffer(tensor.tensor_content, kind).reshape(shape)


@pytest.mark.slow
def test_probabilities_are_those_of_predict(running: Service, version: str, rpc: RpcClient) -> None:
    running.engine.network = lambda batch: (np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(batch), 1)),)
    plain = running.client.post("/predict?top=3", data=form(png(0))).get_json()["predictions"]
    by_label = {each["label"]: each["probability"] for each in plain}
    answer = rpc.ask("Predict", model_spec=SPEC, inputs={"image_bytes": _strings(png(0))})
    rows = _values(answer.outputs["probabilities"])
    assert np.abs(rows[0] - [by_label[label.label] for label in LABELS]).max() <= 1e-6
    spec = answer.model_spec
    assert (spec.name, spec.signature_name) == (MODEL, "serving_default")
    assert spec.version.value == model_versions.number(version)


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize(
    "tensor",
    [
        _strings(png(255), png(0)),
        _strings(png(255), png(0), shape=(2, 1)),
        {
            "dtype": tf.DT_UINT8,
            "tensor_shape": _shape(2, 2, 2, 1),
            "tensor_content": PIXELS.tobytes(),
        },
        {"dtype": tf.DT_UINT8, "tensor_shape": _shape(2, 2, 2), "int_val": PIXELS.ravel().tolist()},
        # The last value stands for all that follow.
        {"dtype": tf.DT_INT32, "tensor_shape": _shape(2, 2, 2, 1), "int_val": [255] * 4 + [0]},
        {"dtype": tf.DT_INT64, "tensor_shape": _shape(2, 2, 2, 1), "int64_val": [255] * 4 + [0]},
        {
            "dtype": tf.DT_FLOAT,
            "tensor_shape": _shape(2, 2, 2, 1),
            "tensor_content": PIXELS.astype("<f4").tobytes(),
        },
        {"dtype": tf.DT_DOUBLE, "tensor_shape": _shape(2, 2, 2, 1), "double_val": [255.0] * 4 + [0.0]},
    ],
)
def test_pictures_of_every_kind(rpc: RpcClient, tensor: dict[str, Any]) -> None:
    answer = rpc.ask("Predict", model_spec=SPEC, inputs={"whatever": tensor})
    assert _values(answer.outputs["probabilities"]).argmax(axis=1).tolist() == [2, 0]


def _floats(*values: float, shape: tuple[int, ...] = (1, 2, 2, 1)) -> dict[str, Any]:
    return {"dtype": tf.DT_FLOAT, "tensor_shape": _shape(*shape), "float_val": values}


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"inputs": {}}, "INVALID_ARGUMENT", "the request has 0"),
        ({"inputs": {"a": _strings(png(0)), "b": _strings(png(0))}}, "INVALID_ARGUMENT", "has 2"),
        ({"inputs": {"a": _strings()}}, "INVALID_ARGUMENT", "0 pictures"),
        ({"inputs": {"a": _strings(*[b""] * 65)}}, "INVALID_ARGUMENT", "65 pictures"),
        ({"inputs": {"a": _strings(png(0), shape=(2,))}}, "INVALID_ARGUMENT", "with n strings"),
        ({"inputs": {"a": _strings(png(0), b"none")}}, "INVALID_ARGUMENT", "Picture 1: "),
        ({"inputs": {"a": _floats(0.5)}}, "INVALID_ARGUMENT", "whole numbers from 0 to 255"),
        ({"inputs": {"a": _floats(float("nan"))}}, "INVALID_ARGUMENT", "whole numbers"),
        ({"inputs": {"a": _floats(256)}}, "INVALID_ARGUMENT", "whole numbers"),
        ({"inputs": {"a": _floats(1, shape=(1, 3, 2, 1))}}, "INVALID_ARGUMENT", "[n, 2, 2, 1] here"),
        ({"inputs": {"a": _floats(1, shape=(-1, 2, 2, 1))}}, "INVALID_ARGUMENT", "-1 pictures"),
        ({"inputs": {"a": _floats(shape=(1, 2, 2, 1))}}, "INVALID_ARGUMENT", "0 numbers, and 4"),
        (
            {
                "inputs": {
                    "a": {"dtype": tf.DT_UINT8, "tensor_shape": _shape(1, 2, 2, 1), "tensor_content": b"a"}
                }
            },
            "INVALID_ARGUMENT",
            "1 bytes for 4",
        ),
        (
            {"inputs": {"a": {"dtype": 0, "tensor_shape": _shape(1, 2, 2, 1)}}},
            "INVALID_ARGUMENT",
            "another type",
        ),
        ({"model_spec": {"name": "other"}}, "NOT_FOUND", "Unknown model 'other'"),
        ({"model_spec": {**SPEC, "version": {"value": 1}}}, "NOT_FOUND", "does not serve version '1'"),
        ({"model_spec": {**SPEC, "version_label": "beta"}}, "NOT_FOUND", "no label 'beta'"),
        ({"model_spec": {**SPEC, "signature_name": "other"}}, "INVALID_ARGUMENT", "serving_default"),
        ({"output_filter": ["boxes"]}, "INVALID_ARGUMENT", "it has probabilities"),
    ],
)
def test_requests_that_are_refused(rpc: RpcClient, fields: dict[str, Any], status: str, words: str) -> None:
    whole: dict[str, Any] = {"model_spec": SPEC, "inputs": {"image_bytes": _strings(png(0))}} | fields
    error = rpc.refused("Predict", **whole)
    assert (error.code().name, words in error.details()) == (status, True), error.details()


@pytest.mark.usefixtures("running")
def test_outputs_may_be_named(rpc: RpcClient) -> None:
    answer = rpc.ask(
        "Predict",
        model_spec={**SPEC, "version_label": "latest"},
        inputs={"image_bytes": _strings(png(0))},
        output_filter=["probabilities"],
    )
    assert [*answer.outputs] == ["probabilities"]


@pytest.mark.usefixtures("running")
def test_versions_and_the_signature(rpc: RpcClient) -> None:
    # The card's, and that of the worker, which is another in these tests.
    told, other = rpc.ask("GetModelStatus", model_spec=SPEC).model_version_status
    assert (other.state, other.status.error_code) == (tf.ModelVersionStatus.AVAILABLE, 0)
    number = model_versions.number("v1")
    assert (told.version, told.state, told.status.error_code) == (number, tf.ModelVersionStatus.END, 14)
    assert told.status.error_message == "No model server serves it."
    spec = {**SPEC, "version": {"value": number}}
    assert rpc.ask("GetModelStatus", model_spec=spec).model_version_status == [told]
    answer = rpc.ask("GetModelMetadata", model_spec=spec, metadata_field=["signature_def"])
    packed = answer.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = tf.SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert signature.inputs["image_bytes"].dtype == tf.DT_STRING
    assert [dim.size for dim in signature.outputs["probabilities"].tensor_shape.dim] == [-1, 3]
    error = rpc.refused("GetModelMetadata", model_spec=SPEC)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert rpc.refused("GetModelStatus", model_spec={"name": "x"}).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("values", "signature", "dtype", "expected"),
    [
        (
            [[[1, 2, 3, 4]], []],
            OutputSignature("DT_FLOAT", (-1, -1, 4)),
            tf.DT_FLOAT,
            [[[1, 2, 3, 4]], [[0, 0, 0, 0]]],
        ),
        ([["a", "b"], []], OutputSignature("DT_STRING", (-1, -1)), tf.DT_STRING, [[b"a", b"b"], [b"", b""]]),
        ([{"b64": b"png"}], OutputSignature("DT_STRING", (-1,)), tf.DT_STRING, [b"png"]),
        ([[(3, 4)]], OutputSignature("DT_INT64", (-1, -1, 2)), tf.DT_INT64, [[[3, 4]]]),
        ([[[1.5]], [[2.5]]], None, tf.DT_FLOAT, [[[1.5]], [[2.5]]]),
        ([[1.5], []], None, tf.DT_STRING, [b"[1.5]", b"[]"]),
        (["12", "a"], None, tf.DT_STRING, [b'"12"', b'"a"']),
        ([{"a": 1}, None], None, tf.DT_STRING, [b'{"a":1}', b"null"]),
    ],
)
def test_outputs_as_tensors(
    values: list[Any], signature: OutputSignature | None, dtype: int, expected: list[Any]
) -> None:
    tensor = tf_tensors.output(values, signature)
    assert (tensor.dtype, _values(tensor).tolist()) == (dtype, expected)


def test_what_is_left_out_of_pixels_takes_no_memory() -> None:
    spec = InputSpec(width=640, height=640, channels=3, fit=Fit.STRETCH)
    tensor = tf.TensorProto(
        dtype=tf.DT_FLOAT,
        tensor_shape={"dim": [{"size": side} for side in (64, 640, 640, 3)]},
        float_val=[5, 7],
    )
    tracemalloc.start()
    pictures = tf_tensors.pictures(tensor, spec)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    first, *others = (np.asarray(each) for each in pictures)
    assert (first.shape, first.ravel()[:3].tolist(), first.min()) == ((640, 640, 3), [5, 7, 7], 5)
    assert len(others) == 63
    assert all(each.shape == first.shape and (each == 7).all() for each in others)
    assert most < 20 * 1024 * 1024
