"""A client of gRPC for tests: methods by their names, with protoc's messages."""

import socket
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from numpy.typing import NDArray

from tests.support.fakes import MODEL
from web.rpc import health, open_inference, tf_serving
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.protos import tensorflow_serving_pb2 as tf
from web.rpc.protos import triton_extensions_pb2 as triton

_OIP, _TF, _TF_MODELS = open_inference.SERVICE, tf_serving.PREDICTION_SERVICE, tf_serving.MODEL_SERVICE

METHODS: dict[str, tuple[str, Any, Any]] = {
    **{
        name: (_OIP, getattr(pb, f"{name}Request"), getattr(pb, f"{name}Response"))
        for name in (
            "ServerLive",
            "ServerReady",
            "ModelReady",
            "ServerMetadata",
            "ModelMetadata",
            "ModelInfer",
        )
    },
    **{
        name: (_OIP, getattr(triton, f"{name}Request"), getattr(triton, f"{name}Response"))
        for name in ("ModelConfig", "ModelStatistics", "RepositoryIndex")
    },
    "Predict": (_TF, tf.PredictRequest, tf.PredictResponse),
    "GetModelMetadata": (_TF, tf.GetModelMetadataRequest, tf.GetModelMetadataResponse),
    "GetModelStatus": (_TF_MODELS, tf.GetModelStatusRequest, tf.GetModelStatusResponse),
    "Check": (health.SERVICE, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
}


class RpcClient:
    """A channel."""

    def __init__(self, port: int, **options: int) -> None:
        self.port = port
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1), *options.items()]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()

    def method(self, name: str) -> Any:  # noqa: ANN401 - gRPC has no types
        """What calls the method."""
        service, kind, answer = METHODS[name]
        return self.channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=kind.SerializeToString,
            response_deserializer=answer.FromString,
        )

    def ask(self, method: str, /, *, timeout: float = 30, **fields: object) -> Any:  # noqa: ANN401 - a message
        """The answer of a call."""
        return self.method(method)(METHODS[method][1](**fields), timeout=timeout)

    def refused(self, method: str, /, *, timeout: float = 30, **fields: object) -> grpc.RpcError:
        """The error of a call that must fail."""
        try:
            answer = self.ask(method, timeout=timeout, **fields)
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"{method} answered: {answer}")


def picture_tensor(datatype: str, shape: list[int], **more: object) -> dict[str, Any]:
    """The input of a model."""
    return {"name": "image", "datatype": datatype, "shape": shape, **more}


def encoded(*pictures: bytes, **more: object) -> dict[str, Any]:
    """A request of ModelInfer with encoded pictures, as Triton's clients send it."""
    raw = b"".join(len(each).to_bytes(4, "little") + each for each in pictures)
    return {
        "model_name": MODEL,
        "inputs": [picture_tensor("BYTES", [len(pictures)])],
        "raw_input_contents": [raw],
        **more,
    }


def read(answer: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """The outputs of an answer of ModelInfer; those of BYTES are as they were sent."""
    kinds = {"FP32": "<f4", "INT64": "<i8", "BYTES": "u1"}
    arrays = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        array = np.frombuffer(raw, kinds[output.datatype])
        arrays[output.name] = array if output.datatype == "BYTES" else array.reshape(output.shape)
    return arrays


def is_closed(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False
