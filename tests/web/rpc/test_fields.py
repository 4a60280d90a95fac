"""How many fields a message has."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ClientError
from tests.support.pictures import png
from tests.web.rpc.client import METHODS, RpcClient, encoded
from web.rpc import fields
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.protos import tensorflow_serving_pb2 as tf

TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, 2], "parameters": {"a": {"int64_param": -1}}}

PIXELS = {"contents": {"uint_contents": [7] * 50_000, "fp64_contents": [0.5]}}


@pytest.mark.parametrize(
    "message",
    [
        pb.ModelInferRequest(),
        pb.ModelInferRequest(**encoded(png(0), png(1)), id="x"),
        pb.ModelInferRequest(inputs=[{**TENSOR, **PIXELS}], outputs=[{"name": "x"}] * 16),
        tf.PredictRequest(
            model_spec={"name": "x", "version": {"value": 2**40}},
            inputs={"x": tf.TensorProto(dtype=tf.DT_FLOAT, float_val=[0.5] * 50_000, string_val=[b"x"] * 64)},
        ),
    ],
)
def test_messages_of_clients_have_few(message: Any) -> None:  # noqa: ANN401 - a message
    fields.require_few(message.SerializeToString(), message.DESCRIPTOR)


@pytest.mark.parametrize(
    "message",
    [
        pb.ModelInferRequest(inputs=[{}] * fields.MOST),
        pb.ModelInferRequest(raw_input_contents=[b""] * (fields.MOST + 1)),
        pb.ModelInferRequest(inputs=[{"contents": {"bytes_contents": [b""] * fields.MOST}}]),
        tf.PredictRequest(inputs={str(each): tf.TensorProto() for each in range(fields.MOST // 3 + 1)}),
    ],
)
def test_too_many_are_refused_wherever_they_are(message: Any) -> None:  # noqa: ANN401 - a message
    data = message.SerializeToString()
    with pytest.raises(ClientError, match="more than 10000 fields"):
        fields.require_few(data + b"\x2a\x00", message.DESCRIPTOR)


@pytest.mark.slow
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for _, kind, _answer in METHODS.values():
        try:
            fields.require_few(data, kind.DESCRIPTOR)
        except ClientError as error:
            assert "can't be read" in error.message  # noqa: PT017


@pytest.mark.parametrize("data", [b"\x2a", b"\x2a\x05ab", b"\x0d\x00", b"\x0b\x0c", b"\xff" * 11])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ClientError, match="can't be read"):
        fields.require_few(data, pb.ModelInferRequest.DESCRIPTOR)


def test_a_server_refuses_it(rpc: RpcClient) -> None:
    refused = rpc.refused("ModelInfer", inputs=[{}] * (fields.MOST + 1))
    assert (refused.code().name, refused.details()) == (
        "INVALID_ARGUMENT",
        f"The message has more than {fields.MOST} fields.",
    )
