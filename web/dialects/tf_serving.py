"""`/v1/models`: TensorFlow Serving's REST interface, which KServe's v1 protocol and Vertex AI share.

Owns the shapes of its requests and answers (docs/protocols.md). What comes between is `/predict`'s, and
failures.py owns the shape of a failure.
"""

import time
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from flask import Blueprint, Response, current_app, request
from flask.sansio.blueprints import BlueprintSetupState
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from werkzeug.routing import BaseConverter

from broker.errors import ClientError, UnknownModel
from broker.messages import Card, InputSpec, Result, WorkerState
from broker.registry import ModelView
from web import responses
from web.dialects import json_pixels, model_versions, named_outputs, tf_models
from web.jobs import JobClient
from web.routes import predict as predictions
from web.uploads import json_bodies, reader
from web.uploads.parameters import PRIORITY, TIMEOUT
from web.uploads.reader import Picture, Upload

blueprint = Blueprint("tf_serving", __name__)


class ModelNameConverter(BaseConverter):
    """A model's name within an address, up to the colon before a method."""

    regex = "[^/:]+"


@blueprint.record_once
def _take_names(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["model_name"] = ModelNameConverter


_B64: Final = "b64"

_NAMES: Final = 8
"""Of one object; only the first is of use."""

_PICTURE: Final = (
    'A picture is {"b64": "BASE64"}, an object with that as its one input, or an array '
    "[height][width][channels] of pixel values."
)


class PredictRequest(Struct, frozen=True):
    """Pictures as rows (`instances`) or as a column (`inputs`). Other fields are ignored."""

    signature_name: str | None = None
    instances: list[Raw] | UnsetType = UNSET
    inputs: Raw | UnsetType = UNSET


class _Base64Object(Struct, frozen=True, forbid_unknown_fields=True):
    b64: str


class ExamplesRequest(Struct, frozen=True):
    """Pictures to classify. Other fields are ignored."""

    examples: list[Raw]
    signature_name: str | None = None


class PredictionRows(Struct, frozen=True):
    """The outputs of each picture, in the order sent."""

    predictions: Annotated[
        list[Any],
        Meta(description="Of a model with one output its value, else an object of all by their names."),
    ]


class OutputColumns(Struct, frozen=True):
    """The values of each output, in the order of the pictures."""

    outputs: Annotated[
        Any, Meta(description="Of a model with one output its values, else an object of all by their names.")
    ]


class ClassLists(Struct, frozen=True):
    """For each picture its best classes, with their probabilities, the best first."""

    results: list[list[Annotated[list[str | float], Meta(min_length=2, max_length=2)]]]


class RegressionValues(Struct, frozen=True):
    """For each picture its number."""

    results: list[float]


class VersionCondition(Struct, frozen=True):
    """Why a version is not available; OK and empty where it is."""

    error_code: Literal["OK", "UNAVAILABLE"] = "OK"
    error_message: str = ""


class VersionStatus(Struct, frozen=True):
    """One version of a model."""

    version: Annotated[str, Meta(description="A number: the version's hexadecimal digits, read as one.")]
    state: Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]
    status: VersionCondition = VersionCondition()


class ServedVersions(Struct, frozen=True):
    """A model as TensorFlow Serving and KServe have it, in one object."""

    name: str
    ready: bool
    model_version_status: list[VersionStatus]


class ServedNames(Struct, frozen=True):
    """The names of the models."""

    models: list[str]


class ModelReference(Struct, frozen=True):
    """Which version of which model is described."""

    name: str
    signature_name: Literal[""]
    version: str


class SignatureMetadata(Struct, frozen=True):
    """A model's inputs and outputs."""

    model_spec: ModelReference
    metadata: dict[str, Any]


_Body = TypeVar("_Body", PredictRequest, ExamplesRequest)


@blueprint.post("/v1/models/<model_name:model>:predict")
@blueprint.post("/v1/models/<model_name:model>/versions/<version>:predict")
@blueprint.post("/v1/models/<model_name:model>/labels/<label>:predict")
def predict(model: str, version: str = "", label: str = "") -> Response:
    """Every output for each picture: of rows as `predictions`, of a column as `outputs`."""
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.places.slot():
        started_at = time.monotonic()
        view = model_versions.serving(jobs, model, version=version, label=label)
        sent = _body(PredictRequest)
        if (sent.instances is UNSET) is (sent.inputs is UNSET):
            raise ClientError('The body has one of "instances" (a list of pictures) and "inputs".')
        values = _column(sent.inputs) if isinstance(sent.inputs, Raw) else sent.instances or []
        results = _results(view, values, started_at=started_at, version=version)
    outputs = [named_outputs.of(result, view.card) for result in results]
    names = list(dict.fromkeys(name for each in outputs for name in each))
    if sent.inputs is UNSET:
        rows = [each.get(names[0]) if len(names) == 1 else each for each in outputs]
        return responses.respond(PredictionRows(rows))
    columns = {name: [each.get(name) for each in outputs] for name in names}
    return responses.respond(OutputColumns(columns[names[0]] if len(names) == 1 else columns))


@blueprint.post("/v1/models/<model_name:model>:classify")
@blueprint.post("/v1/models/<model_name:model>/versions/<version>:classify")
@blueprint.post("/v1/models/<model_name:model>/labels/<label>:classify")
def classify(model: str, version: str = "", label: str = "") -> Response:
    """The best classes of each picture: as many as the model gives by itself, or `?top=`."""
    results = _of_examples(model, "classify", version=version, label=label)
    return responses.respond(
        ClassLists([[[each.label, each.probability] for each in result.predictions] for result in results])
    )


@blueprint.post("/v1/models/<model_name:model>:regress")
@blueprint.post("/v1/models/<model_name:model>/versions/<version>:regress")
@blueprint.post("/v1/models/<model_name:model>/labels/<label>:regress")
def regress(model: str, version: str = "", label: str = "") -> Response:
    """The one number that the model gives for each picture."""
    results = _of_examples(model, "regress", version=version, label=label)
    numbers = [number for result in results for number in (result.values or {}).values()]
    return responses.respond(RegressionValues(numbers))


@blueprint.get("/v1/models")
def models() -> Response:
    """The names of all models, as KServe lists them."""
    jobs: JobClient = current_app.extensions["jobs"]
    views = jobs.models.shown(jobs.registry.models(fresh=True))
    return responses.respond(ServedNames([view.card.model for view in views]))


@blueprint.get("/v1/models/<model_name:model>")
@blueprint.get("/v1/models/<model_name:model>/versions/<version>")
@blueprint.get("/v1/models/<model_name:model>/labels/<label>")
def status(model: str, version: str = "", label: str = "") -> Response:
    """The versions of a model and their states, and whether it is ready."""
    jobs: JobClient = current_app.extensions["jobs"]
    view, versions = tf_models.versions(jobs, model, version=version, label=label)
    return responses.respond(
        ServedVersions(
            name=model,
            ready=view is not None and view.state is WorkerState.READY,
            model_version_status=[_version_status(each) for each in versions],
        )
    )


@blueprint.get("/v1/models/<model_name:model>/metadata")
@blueprint.get("/v1/models/<model_name:model>/versions/<version>/metadata")
@blueprint.get("/v1/models/<model_name:model>/labels/<label>/metadata")
def metadata(model: str, version: str = "", label: str = "") -> Response:
    """The model's input and outputs, as the signature of a SavedModel."""
    jobs: JobClient = current_app.extensions["jobs"]
    view = tf_models.described(jobs, model, version=version, label=label)
    signature = {
        "inputs": {named_outputs.PICTURE: _tensor_info(named_outputs.PICTURE, tf_models.PICTURES)},
        "outputs": {
            name: _tensor_info(name, tensor) for name, tensor in named_outputs.declared(view.card).items()
        },
        "method_name": tf_models.METHOD,
    }
    number = str(model_versions.number(view.card.model_version))
    return responses.respond(
        SignatureMetadata(
            ModelReference(model, "", number),
            {"signature_def": {"signature_def": {tf_models.SIGNATURE: signature}}},
        )
    )


def _body(kind: type[_Body]) -> _Body:
    """The request's JSON. Raises ClientError, also for another signature."""
    try:
        sent = msgspec.json.decode(json_bodies.as_utf_8(reader.body(request)), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if isinstance(error, msgspec.ValidationError) else "it is not valid JSON"
        raise ClientError(f"The JSON body is not accepted ({said[:200]}). {_PICTURE}") from None
    tf_models.require_signature(sent.signature_name or "")
    return sent


def _column(inputs: Raw) -> list[Raw]:
    """The pictures of `inputs`: a list, one alone, or either as the one named input."""
    inputs = _unnamed(inputs)
    return msgspec.json.decode(inputs, type=list[Raw]) if _first(inputs) == b"[" else [inputs]


def _first(value: Raw) -> bytes:
    return bytes(memoryview(value)[:1])


def _unnamed(value: Raw) -> Raw:
    """What an object with one named input holds; another value as it is. Raises ClientError."""
    if _first(value) != b"{":
        return value
    if bytes(value).count(b'":') > _NAMES:
        raise ClientError(f"An object of the request has more than {_NAMES} names. {_PICTURE}")
    named = msgspec.json.decode(value, type=dict[str, Raw])
    return next(iter(named.values())) if len(named) == 1 and _B64 not in named else value


def _pictures(values: list[Raw], spec: InputSpec) -> list[Picture]:
    """The pictures of a request. Raises ClientError: none fails alone here."""
    tf_models.require_count(len(values))
    pictures = [_picture(value, spec) for value in values]
    for number, picture in enumerate(pictures):
        if isinstance(picture, ClientError):
            raise ClientError(f"Picture {number}: {picture.message}")
    return pictures


def _picture(value: Raw, spec: InputSpec) -> Picture:
    value = _unnamed(value)
    try:
        match _first(value):
            case b"[":
                return json_pixels.picture(bytes(value), spec)
            case b'"':  # KServe's examples for TorchServe
                return json_bodies.picture(msgspec.json.decode(value, type=str))
            case b"{":
                return json_bodies.picture(msgspec.json.decode(value, type=_Base64Object).b64)
    except msgspec.DecodeError:
        pass
    raise ClientError(f"A picture of the request is something else. {_PICTURE}")


def _has_signature(card: Card, method: str) -> bool:
    """Whether a model may answer `:classify` or `:regress`, as far as its card tells."""
    outputs = named_outputs.declared(card)
    if method == "regress":
        return "values" in outputs and card.classes == 1
    return not outputs or "classes" in outputs or "probabilities" in outputs


def _of_examples(model: str, method: str, *, version: str, label: str) -> list[Result]:
    """The results of the request's examples, by a model that has this signature. Raises UnknownModel."""
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.places.slot():
        started_at = time.monotonic()
        view = model_versions.serving(jobs, model, version=version, label=label)
        refusal = UnknownModel(f"{model} has no signature for :{method}: use :predict.")
        if not _has_signature(view.card, method):
            raise refusal
        values = _body(ExamplesRequest).examples
        results = _results(view, values, started_at=started_at, version=version)
    for result in results:  # of a task without classes, or the model's own code has answered
        if result.values is None and not result.predictions and not result.is_empty:
            raise refusal
    return results


def _results(view: ModelView, values: list[Raw], *, started_at: float, version: str) -> list[Result]:
    """The results of all pictures. Raises the first failure: the answer has no place for one of several."""
    given = request.args.get("top", "")
    asked = {name: request.args[name] for name in (TIMEOUT, PRIORITY) if request.args.get(name)}
    parameters = {"model": view.card.model, **asked}
    upload = Upload(_pictures(values, view.card.input), parameters, [given] if given else [])
    outcomes = predictions.outcomes(upload, started_at=started_at, scores=True)
    return tf_models.good(outcomes, view, version=version)


def _version_status(known: tf_models.KnownVersion) -> VersionStatus:
    condition = VersionCondition()
    if known.problem is not None:
        condition = VersionCondition("UNAVAILABLE", known.problem)
    return VersionStatus(str(known.number), known.state, condition)


def _tensor_info(name: str, tensor: named_outputs.OutputSignature) -> dict[str, Any]:
    """A tensor of a signature, as TensorFlow Serving prints it: its numbers are strings."""
    sides = [{"size": str(side), "name": ""} for side in tensor.shape]
    return {
        "dtype": tensor.dtype,
        "tensor_shape": {"dim": sides, "unknown_rank": False},
        "name": f"{name}:0",
    }
