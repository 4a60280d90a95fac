"""`python rpc_clients.py CLIENT`: asks over gRPC with a client of another server, and prints what it heard.

`triton` runs in the environment of requirements.txt, `tf_serving` where TensorFlow is; imports nothing of the
project. What to ask is JSON on stdin: the `address`, the `model`, the `pictures` in base64, and their `side`.
"""

import base64
import io
import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASKED: dict[str, Any] = {}
PICTURES: list[bytes] = []


def pixels() -> NDArray[np.uint8]:
    """The pictures as a client fits them: uint8 [n, side, side, 1]."""
    from PIL import Image

    side = ASKED["side"]
    fitted = [np.array(Image.open(io.BytesIO(each)).convert("L").resize((side, side))) for each in PICTURES]
    return np.stack(fitted)[..., None]


def triton() -> dict[str, Any]:
    """Triton's: both data types, what it asks first, the best classes, what is refused."""
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    model, told = ASKED["model"], {}
    with grpc.InferenceServerClient(ASKED["address"]) as client:
        told["ready"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready(model)]
        told["metadata"] = client.get_model_metadata(model, as_json=True)
        told["config"] = client.get_model_config(model, as_json=True)
        told["index"] = client.get_model_repository_index(as_json=True)
        told["statistics"] = client.get_inference_statistics(model, as_json=True)
        for kind, data in (("UINT8", pixels()), ("BYTES", np.array(PICTURES, object))):
            tensor = grpc.InferInput("image", [*data.shape], kind)
            tensor.set_data_from_numpy(data)
            answer = client.infer(
                model, [tensor], request_id="mine", timeout=20_000_000, compression_algorithm="gzip"
            )
            told[kind] = answer.as_numpy("probabilities").tolist()
            told["id"] = answer.get_response().id
        best = grpc.InferRequestedOutput("probabilities", class_count=3)
        rows = client.infer(model, [tensor], outputs=[best]).as_numpy("probabilities")
        told["class_count"] = [[str(one, "utf-8") for one in row] for row in rows]
        told["refused"] = []
        broken = grpc.InferInput("image", [1], "BYTES")
        broken.set_data_from_numpy(np.array([b"no picture"], object))
        for name, sent in ((model, broken), ("other", tensor)):
            try:
                client.infer(name, [sent])
            except InferenceServerException as error:
                told["refused"].append([error.status(), error.message()])
    return told


def tf_serving() -> dict[str, Any]:
    """TensorFlow Serving's own: pictures and pixels, the signature, the versions, what is refused."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    told: dict[str, Any] = {}
    with grpc.insecure_channel(ASKED["address"]) as channel:
        predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for name, tensor in (
            ("files", tf.make_tensor_proto(PICTURES, shape=[len(PICTURES)])),
            ("uint8", tf.make_tensor_proto(pixels())),
            ("float", tf.make_tensor_proto(pixels().astype(np.float32))),
        ):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = ASKED["model"]
            request.inputs["image_bytes"].CopyFrom(tensor)
            answer = predictions.Predict(request, timeout=30)
            told[name] = tf.make_ndarray(answer.outputs["probabilities"]).tolist()
            told["version"] = answer.model_spec.version.value
        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        about.model_spec.name = ASKED["model"]
        packed = predictions.GetModelMetadata(about, timeout=30).metadata["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        told["unpacked"] = packed.Unpack(signatures)
        signature = signatures.signature_def["serving_default"]
        told["outputs"] = [*signature.outputs]
        told["input type"] = tf.dtypes.as_dtype(signature.inputs["image_bytes"].dtype).name
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = ASKED["model"]
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        told["versions"] = [
            [each.version, get_model_status_pb2.ModelVersionStatus.State.Name(each.state)]
            for each in models.GetModelStatus(status, timeout=30).model_version_status
        ]
        request.model_spec.name = "other"
        try:
            predictions.Predict(request, timeout=30)
        except grpc.RpcError as error:
            told["refused"] = [error.code().name, error.details()]
    return told


if __name__ == "__main__":
    ASKED = json.load(sys.stdin)
    PICTURES = [base64.b64decode(each) for each in ASKED["pictures"]]
    print(json.dumps({"triton": triton, "tf_serving": tf_serving}[sys.argv[1]]()))  # noqa: T201 - what it is for
