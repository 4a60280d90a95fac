"""`tensorflow.serving.PredictionService` and `ModelService`: what their clients ask, on the same port.

Owns the translation of their messages. Versions, signatures and failures are those of the REST interface
(web/dialects/tf_models.py), tensors are tf_tensors.py's.
"""

from typing import Any, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import Int64Value

from broker.errors import ClientError
from web.dialects import model_versions, named_outputs, tf_models
from web.inference import Inference
from web.rpc import tf_tensors
from web.rpc.calls import Call, Calls
from web.rpc.protos import tensorflow_serving_pb2 as pb
from web.uploads.reader import Upload

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"

_FILTERS: Final = 64
"""Names of outputs in a request; more are ignored."""

_SIGNATURES: Final = "signature_def"
"""The one field of a model's metadata."""

_SIGNATURES_URL: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


class TfServingMethods:
    """The methods of both services."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._jobs = inference.jobs

    def prediction_handlers(self, calls: Calls) -> dict[str, Any]:
        """Method -> gRPC's handler of it."""
        return {
            "Predict": calls.method(pb.PredictRequest, self.predict, asks_models=True),
            "GetModelMetadata": calls.method(pb.GetModelMetadataRequest, self.metadata),
        }

    def model_handlers(self, calls: Calls) -> dict[str, Any]:
        """Method -> gRPC's handler of it."""
        return {"GetModelStatus": calls.method(pb.GetModelStatusRequest, self.status)}

    def predict(self, request: pb.PredictRequest, call: Call) -> pb.PredictResponse:
        """Every output of a model, or those that the filter names, for the pictures of its one input."""
        spec = request.model_spec
        tf_models.require_signature(spec.signature_name)
        version = _version(spec)
        view = model_versions.serving(self._jobs, spec.name, version=version, label=spec.version_label)
        if len(request.inputs) != 1:
            raise ClientError(
                f"A model has one input, {named_outputs.PICTURE!r}; the request has {len(request.inputs)}."
            )
        (tensor,) = request.inputs.values()
        upload = Upload(tf_tensors.pictures(tensor, view.card.input), {"model": view.card.model}, [])
        wanted = [*request.output_filter[:_FILTERS]]
        del request, spec, tensor  # the upload has the pictures
        outcomes = self._inference.outcomes(upload, call.caller(upload))
        results = tf_models.good(outcomes, view, version=version)
        outputs = [named_outputs.of(result, view.card) for result in results]
        names = list(dict.fromkeys(name for each in outputs for name in each))
        for name in wanted:
            if name not in names:
                raise ClientError(f"The model has no output {name[:40]!r}; it has {', '.join(names)}.")
        declared = named_outputs.declared(view.card)
        return pb.PredictResponse(
            outputs={
                name: tf_tensors.output([each.get(name) for each in outputs], declared.get(name))
                for name in wanted or names
            },
            model_spec=_spec(view.card.model, results[0].model_version),
        )

    def metadata(self, request: pb.GetModelMetadataRequest, _: Call) -> pb.GetModelMetadataResponse:
        """A model's input and outputs, as the signature of a SavedModel."""
        if [*request.metadata_field[:2]] != [_SIGNATURES]:
            raise ClientError(f"metadata_field names {_SIGNATURES}, which is all that there is.")
        spec = request.model_spec
        view = tf_models.described(self._jobs, spec.name, version=_version(spec), label=spec.version_label)
        inputs = {named_outputs.PICTURE: tf_models.PICTURES}
        outputs = named_outputs.declared(view.card)
        signature = pb.SignatureDef(
            inputs={name: tf_tensors.described(name, tensor) for name, tensor in inputs.items()},
            outputs={name: tf_tensors.described(name, tensor) for name, tensor in outputs.items()},
            method_name=tf_models.METHOD,
        )
        signatures = pb.SignatureDefMap(signature_def={tf_models.SIGNATURE: signature})
        value = AnyMessage(type_url=_SIGNATURES_URL, value=signatures.SerializeToString())
        return pb.GetModelMetadataResponse(
            model_spec=_spec(view.card.model, view.card.model_version), metadata={_SIGNATURES: value}
        )

    def status(self, request: pb.GetModelStatusRequest, _: Call) -> pb.GetModelStatusResponse:
        """The versions of a model and their states."""
        spec = request.model_spec
        _view, versions = tf_models.versions(
            self._jobs, spec.name, version=_version(spec), label=spec.version_label
        )
        return pb.GetModelStatusResponse(
            model_version_status=[
                {
                    "version": each.number,
                    "state": each.state,
                    "status": _condition(each.problem),
                }
                for each in versions
            ]
        )


def _version(spec: pb.ModelSpec) -> str:
    """The version that a request names, as its number; empty if it names none."""
    return str(spec.version.value) if spec.HasField("version") else ""


def _spec(model: str, version: str) -> pb.ModelSpec:
    number = Int64Value(value=model_versions.number(version))
    return pb.ModelSpec(name=model, version=number, signature_name=tf_models.SIGNATURE)


def _condition(problem: str | None) -> pb.StatusProto:
    code, _ = (grpc.StatusCode.OK if problem is None else grpc.StatusCode.UNAVAILABLE).value
    return pb.StatusProto(error_code=code, error_message=problem or "")
