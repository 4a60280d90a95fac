"""`/predictions/NAME` and `/ping`: TorchServe's inference interface.

Owns the shapes of its answers and of its failures (docs/protocols.md). Our own `GET /predictions/UUID`,
another method of the same addresses, is routes/predict.py's. What comes between is `/predict`'s.
"""

import time
from dataclasses import replace
from typing import Any, Final, Literal

import msgspec
from flask import Blueprint, Response, current_app, request
from flask.sansio.blueprints import BlueprintSetupState
from msgspec import Struct
from werkzeug.routing import BaseConverter

from broker.errors import BrokerUnavailable, ClientError, ServiceError
from broker.messages import Card, Prediction, Result, WorkerState
from pictures import png
from web import responses
from web.dialects import model_versions, named_outputs
from web.jobs import JobClient
from web.routes import predict
from web.uploads import reader

blueprint = Blueprint("torchserve", __name__)

_VERSION: Final = "model_version"


class ModelVersionConverter(BaseConverter):
    """A version after a model's name; `events` are those of a job, at an address of our own."""

    regex = "(?!events$)[^/]+"


@blueprint.record_once
def _take_versions(state: BlueprintSetupState) -> None:
    state.app.url_map.converters[_VERSION] = ModelVersionConverter


FIELDS: Final = (*reader.FIELDS, "data", "body")
"""Form fields that a picture may come in."""

TOP: Final = 5
"""Classes in an answer, as TorchServe's image_classifier has them."""


class Health(Struct, frozen=True):
    """Whether some model can be asked."""

    status: Literal["Healthy", "Unhealthy"]


class PredictionFailure(Struct, frozen=True):
    """A failure as TorchServe has it."""

    code: int
    type: str
    message: str


_TYPES: Final = {
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    503: "ServiceUnavailableException",
}


def failure(message: str, status: int) -> PredictionFailure:
    """The body of a failure with this status."""
    other = "BadRequestException" if status < 500 else "InternalServerException"
    return PredictionFailure(status, _TYPES.get(status, other), message)


@blueprint.post("/predictions/<model>")
@blueprint.post(f"/predictions/<model>/<{_VERSION}:version>")
def predictions(model: str, version: str = "") -> Response:
    """What the model says of one picture, in the form of TorchServe's handler for such models."""
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.places.slot():
        started_at = time.monotonic()
        view = model_versions.serving(jobs, model, version=version)
        sent = reader.read(request, fields=FIELDS)
        if len(sent.pictures) > 1:
            raise ClientError(
                f"/predictions takes one picture, and {len(sent.pictures)} came: POST /predict takes more."
            )
        tops = [] if view.card.steps else sent.tops or [str(min(TOP, view.card.top_max))]
        sent = replace(sent, parameters={**sent.parameters, "model": model}, tops=tops)
        (result,) = predict.outcomes(sent, started_at=started_at)
    if isinstance(result, ServiceError):
        raise result
    if version:
        model_versions.require_same([result], view)
    if result.image is not None:
        return Response(png.of_pixels(result.image), mimetype=responses.PNG)
    return Response(msgspec.json.encode(_answer(result, view.card)) + b"\n", mimetype=responses.MIMETYPE)


@blueprint.put("/predictions/<model>")
@blueprint.put(f"/predictions/<model>/<{_VERSION}:version>")
def predictions_by_put(model: str, version: str = "") -> Response:
    """The same for `curl -T`."""
    return predictions(model, version)


@blueprint.get("/ping")
def ping() -> Response:
    """Healthy where a model is ready and Redis takes jobs; else Unhealthy, with 500."""
    jobs: JobClient = current_app.extensions["jobs"]
    try:
        views = jobs.models.shown(jobs.registry.models(fresh=True))
        jobs.producer.check_writable()
    except BrokerUnavailable:
        views = []
    if any(view.state is WorkerState.READY for view in views):
        return responses.respond(Health("Healthy"))
    return responses.respond(Health("Unhealthy"), 500)


def _answer(result: Result, card: Card) -> Any:  # noqa: ANN401 - JSON
    """The answer in JSON: whole answers by name as they are, otherwise a list or an object of labels.

    With what a model's own code adds, that list or object is `predictions` beside it.
    """
    if result.result is not None:
        return (
            {"predictions": _labels(result, card), **result.result} if result.predictions else result.result
        )
    for whole in (result.embedding, result.values, result.steps):
        if whole is not None:
            return whole
    if result.outputs is not None:
        return named_outputs.of(result, card)
    return _labels(result, card)


def _labels(result: Result, card: Card) -> list[dict[str, Any]] | dict[str, float]:
    """The predictions: of a detector in a list, else an object of labels and probabilities."""
    if "boxes" in named_outputs.declared(card):
        return [_place(each) for each in result.predictions]
    best_first: dict[str, float] = {}
    for each in result.predictions:
        best_first.setdefault(each.label, each.probability)  # two classes may have one name
    return best_first


def _place(found: Prediction) -> dict[str, Any]:
    """What was found, as TorchServe's object_detector says it."""
    return {found.label: named_outputs.corners(found.box), "score": found.probability}
