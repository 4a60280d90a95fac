"""`inference.GRPCInferenceService`: the Open Inference Protocol, with what Triton's clients ask besides.

Owns the translation of its messages. What a model has here is web/dialects/open_inference's to say.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from broker.errors import ClientError, ServiceError
from broker.messages import InputSpec
from web.dialects.open_inference import infer, metadata, models, tensors
from web.dialects.open_inference.tensors import BYTES, UINT8, InferRequest
from web.errors import Forbidden
from web.inference import Inference
from web.rpc.calls import Call, Calls
from web.rpc.protos import open_inference_grpc_pb2 as pb
from web.rpc.protos import triton_extensions_pb2 as triton
from web.uploads.parameters import MAX_PICTURES

SERVICE: Final = "inference.GRPCInferenceService"

_SIZE: Final = struct.Struct("<I")
_LARGEST_BYTE: Final = 255

_TOO_MANY: Final = 64
"""Inputs, outputs or sides: tensors.py takes fewer, and a message of 20 MB may have millions."""

_PARAMETERS: Final = ("timeout", "priority", "classification")
"""Those that have an effect; binary data have a place of their own here."""


class OpenInferenceMethods:
    """The service's methods."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._jobs = inference.jobs

    def handlers(self, calls: Calls) -> dict[str, Any]:
        """Method -> gRPC's handler of it."""
        return {
            "ServerLive": calls.method(pb.ServerLiveRequest, self.server_live, is_open=True),
            "ServerReady": calls.method(pb.ServerReadyRequest, self.server_ready, is_open=True),
            "ModelReady": calls.method(pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": calls.method(pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": calls.method(pb.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": calls.method(pb.ModelInferRequest, self.infer, asks_models=True),
            "ModelConfig": calls.method(triton.ModelConfigRequest, self.config),
            "ModelStatistics": calls.method(triton.ModelStatisticsRequest, self.statistics),
            "RepositoryIndex": calls.method(triton.RepositoryIndexRequest, self.index),
        }

    def server_live(self, _: pb.ServerLiveRequest, __: Call) -> pb.ServerLiveResponse:
        """Say that this process answers."""
        return pb.ServerLiveResponse(live=True)

    def server_ready(self, _: pb.ServerReadyRequest, __: Call) -> pb.ServerReadyResponse:
        """Say whether some model can be asked."""
        try:
            models.require_any_ready(self._jobs)
        except ServiceError:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    def model_ready(self, request: pb.ModelReadyRequest, _: Call) -> pb.ModelReadyResponse:
        """Say whether a model can be asked; an unknown one can't, as Triton has it. Raises Forbidden."""
        try:
            models.require_ready(self._jobs, request.name, version=request.version)
        except Forbidden:
            raise
        except ServiceError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def server_metadata(self, _: pb.ServerMetadataRequest, __: Call) -> pb.ServerMetadataResponse:
        """The service's name, its version and its extensions."""
        return pb.ServerMetadataResponse(**metadata.server())

    def model_metadata(self, request: pb.ModelMetadataRequest, _: Call) -> pb.ModelMetadataResponse:
        """A model's inputs and outputs; its labels, as a list in JSON, are a property."""
        view = models.named(self._jobs, request.name, version=request.version)
        told = metadata.model(view, ())
        labels = self._jobs.registry.labels(view.card.model, view.card.model_version)
        if labels:
            told["properties"] = {"labels": msgspec.json.encode([label.label for label in labels]).decode()}
        return pb.ModelMetadataResponse(**told)

    def config(self, request: triton.ModelConfigRequest, _: Call) -> triton.ModelConfigResponse:
        """A model's configuration, as Triton has it."""
        view = models.named(self._jobs, request.name, version=request.version)
        return triton.ModelConfigResponse(config=metadata.config(view))

    def statistics(self, request: triton.ModelStatisticsRequest, _: Call) -> triton.ModelStatisticsResponse:
        """How many pictures a model has answered, or each model."""
        views = models.shown(self._jobs)
        if request.name:
            views = [models.named(self._jobs, request.name, version=request.version, fresh=True)]
        return triton.ModelStatisticsResponse(model_stats=[metadata.statistics(view) for view in views])

    def index(self, request: triton.RepositoryIndexRequest, _: Call) -> triton.RepositoryIndexResponse:
        """All models with their states, or those that are ready."""
        rows = [metadata.indexed(view) for view in models.shown(self._jobs)]
        return triton.RepositoryIndexResponse(
            models=[row for row in rows if not request.ready or row["state"] == "READY"]
        )

    def infer(self, message: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Ask a model of the pictures in a request's tensor."""
        view = models.named(self._jobs, message.model_name, version=message.model_version)
        request, rest = _request(message, view.card.input)
        wanted, is_named = infer.wanted_outputs(request, view.card), bool(request.outputs)
        upload = infer.upload_of(request, rest, view.card)
        version, request_id = message.model_version, message.id
        del message, rest  # the upload has the pictures
        results = infer.good(
            self._inference.outcomes(upload, call.caller(upload, timeout_s=infer.timeout_s(request)))
        )
        infer.require_one_version(results, view, version=version)
        version = results[0].model_version
        labels = self._jobs.registry.labels(view.card.model, version)
        outputs = infer.answered(view.card, results, labels, wanted, is_named=is_named)
        return pb.ModelInferResponse(
            model_name=view.card.model,
            model_version=version,
            id=request_id,
            outputs=[
                {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.values.shape}
                for tensor in outputs
            ],
            raw_output_contents=[tensors.packed(tensor.values) for tensor in outputs],
        )


def _request(message: pb.ModelInferRequest, spec: InputSpec) -> tuple[InferRequest, bytes]:
    """The same request as HTTP has it, and the bytes of its one input. Raises ClientError."""
    rest = _contents(message, spec) if len(message.inputs) == 1 else b""
    request = tensors.request_of(
        {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": [*tensor.shape[:_TOO_MANY]],
                    "parameters": {"binary_data_size": len(rest)},
                }
                for tensor in message.inputs[:_TOO_MANY]
            ],
            "outputs": [
                {"name": output.name, "parameters": _parameters(output.parameters)}
                for output in message.outputs[:_TOO_MANY]
            ],
            "parameters": _parameters(message.parameters),
        }
    )
    return request, rest


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the parameters that have an effect."""
    found: dict[str, Any] = {}
    for name in _PARAMETERS:
        if name in parameters and (kind := parameters[name].WhichOneof("parameter_choice")):
            found[name] = getattr(parameters[name], kind)
    return found


def _contents(message: pb.ModelInferRequest, spec: InputSpec) -> bytes:
    """The bytes of the only input: as they are, or of its contents. Raises ClientError."""
    (tensor,) = message.inputs
    name, raw, contents = tensor.name[:40], message.raw_input_contents, tensor.contents
    if raw:
        if len(raw) != 1 or tensor.HasField("contents"):
            raise ClientError(
                f"{name!r} has its data once: in raw_input_contents, which then has one element, or in its "
                "contents."
            )
        return bytes(raw[0])
    if len(contents.bytes_contents) > MAX_PICTURES:
        raise ClientError(f"{name!r} has {len(contents.bytes_contents)} elements: {MAX_PICTURES} at most.")
    if tensor.datatype == BYTES:
        return b"".join(_SIZE.pack(len(element)) + element for element in contents.bytes_contents)
    if tensor.datatype != UINT8:
        return b""
    if len(contents.uint_contents) > MAX_PICTURES * math.prod(spec.network_shape):
        raise ClientError(f"{name!r} has {len(contents.uint_contents)} numbers: no request has so many here.")
    values = np.array(contents.uint_contents, np.uint32)
    if (values > _LARGEST_BYTE).any():
        raise ClientError(f"{name!r} is UINT8: its numbers are from 0 to 255.")
    return values.astype(np.uint8).tobytes()
