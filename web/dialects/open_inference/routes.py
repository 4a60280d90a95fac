"""The Open Inference Protocol under `/v2`: metadata, health and inference, as Triton and KServe have them.

Owns the addresses and what an answer has in its head. Pictures, limits and errors are those of `/predict`.
"""

import math
import time
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, current_app, request
from msgspec import UNSET

from broker.errors import ClientError, NoWorker
from broker.messages import Result, WorkerState
from broker.registry import ModelView
from web import responses
from web.dialects import model_versions
from web.dialects.open_inference import infer, metadata, tensors
from web.dialects.open_inference.tensors import BYTES, InferReply, InferRequest, WantedOutput
from web.jobs import JobClient
from web.routes import predict
from web.uploads import reader
from web.uploads.reader import Upload

blueprint = Blueprint("open_inference", __name__, url_prefix="/v2")

_MICROSECONDS: Final = 1_000_000

_MODEL: Final = "/models/<model>"
_VERSION: Final = "/models/<model>/versions/<version>"


@blueprint.get("")
@blueprint.get("/")
def server() -> Response:
    """The service's name, its version, and the extensions of the protocol that it has."""
    return _json(metadata.server())


@blueprint.get("/health/live")
def live() -> Response:
    """Say that this process answers."""
    return _json({"live": True})


@blueprint.get("/health/ready")
def ready() -> Response:
    """Say whether some model can be asked."""
    _jobs().producer.check_writable()
    if not any(view.state is WorkerState.READY for view in _shown()):
        raise NoWorker("No live worker serves any model.")
    return _json({"ready": True, "live": True})


@blueprint.get("/models")
def models() -> Response:
    """The names of the models."""
    return _json({"models": [view.card.model for view in _shown()]})


@blueprint.get(_MODEL)
@blueprint.get(_VERSION)
def model_metadata(model: str, version: str = "") -> Response:
    """A model's inputs, outputs and labels."""
    view = _view(model, version)
    return _json(metadata.model(view, _jobs().registry.labels(model, view.card.model_version)))


@blueprint.get(f"{_MODEL}/ready")
@blueprint.get(f"{_VERSION}/ready")
def model_ready(model: str, version: str = "") -> Response:
    """Say whether a model can be asked."""
    view = _view(model, version, fresh=True)
    if view.state is not WorkerState.READY:
        raise NoWorker(view.reason or f"No model server serves {model}.")
    return _json({"name": model, "ready": True})


@blueprint.get(f"{_MODEL}/config")
@blueprint.get(f"{_VERSION}/config")
def model_config(model: str, version: str = "") -> Response:
    """A model's configuration, as Triton has it."""
    return _json(metadata.config(_view(model, version)))


@blueprint.get(f"{_MODEL}/stats")
@blueprint.get(f"{_VERSION}/stats")
def model_statistics(model: str, version: str = "") -> Response:
    """How many pictures a model has answered."""
    return _json({"model_stats": [metadata.statistics(_view(model, version, fresh=True))]})


@blueprint.get("/models/stats")
def statistics() -> Response:
    """How many pictures each model has answered."""
    return _json({"model_stats": [metadata.statistics(view) for view in _shown()]})


@blueprint.post("/repository/index")
def repository() -> Response:
    """All models with their states."""
    return _json([metadata.indexed(view) for view in _shown()])


@blueprint.post("/repository/models/<model>/load")
@blueprint.post("/repository/models/<model>/unload")
def load(model: str) -> Response:
    """Refuse: the model servers watch the folder of models themselves."""
    raise ClientError(f"{model[:60]} is not loaded or unloaded from here: change its folder in MODELS_DIR.")


@blueprint.post(f"{_MODEL}/infer")
@blueprint.post(f"{_VERSION}/infer")
def ask(model: str, version: str = "") -> Response:
    """Ask a model of the pictures in a request's tensor."""
    jobs = _jobs()
    with jobs.slot():
        started_at = time.monotonic()
        view = _view(model, version)
        asked, rest = tensors.read_request(reader.body(request), request.headers.get(tensors.HEADER))
        wanted = _wanted(view, asked)
        timeout_us = asked.parameters.timeout if asked else 0
        is_scored = infer.outputs_of(view.card).has_scores
        upload = Upload(
            infer.pictures_of(asked, rest, view.card.input), {"model": model}, ["1"] if is_scored else []
        )
        results = infer.good(
            predict.outcomes(
                upload,
                started_at=started_at,
                scores=True,
                timeout_s=timeout_us / _MICROSECONDS if timeout_us else math.inf,
            )
        )
    # A version may replace another meanwhile, and labels are those of one.
    if version:
        model_versions.require_same(results, view)
    if len({result.model_version for result in results}) > 1:
        raise NoWorker(f"Two versions of {model} answered, while one replaces the other: send it again.")
    return _answer(view, asked, wanted, results)


def _wanted(view: ModelView, asked: InferRequest | None) -> list[WantedOutput]:
    """The outputs that the answer shall have. Raises ClientError."""
    known = infer.outputs_of(view.card).told(view.card)
    if asked is None or not asked.outputs:
        return [WantedOutput(name) for name in known]
    for output in asked.outputs:
        if output.name not in known:
            raise ClientError(f"The model has no output {output.name[:40]!r}; it has {', '.join(known)}.")
        if output.parameters.classification and known[output.name][0] == BYTES:
            raise ClientError(f"{output.name!r} has no classes: leave parameters.classification out.")
    if len({output.name for output in asked.outputs}) < len(asked.outputs):
        raise ClientError("The request names an output twice.")
    return asked.outputs


def _answer(
    view: ModelView, asked: InferRequest | None, wanted: list[WantedOutput], results: list[Result]
) -> Response:
    version = results[0].model_version
    labels = _jobs().registry.labels(view.card.model, version)
    known = {tensor.name: tensor for tensor in infer.outputs_of(view.card).read(results, labels)}
    is_binary = asked is None or asked.parameters.binary_data_output
    outputs = []
    for output in wanted:
        tensor, count = known[output.name], output.parameters.classification
        told_so = output.parameters.binary_data
        if count:
            tensor = infer.best_classes(tensor, count, labels)
        outputs.append((tensor, is_binary if told_so is UNSET else told_so))
    told = InferReply(
        model_name=view.card.model, model_version=version, id=asked.id if asked else "", outputs=[]
    )
    body, json_bytes = tensors.encode(told, outputs)
    if json_bytes is None:
        return Response(body, mimetype=responses.MIMETYPE)
    response = Response(body, mimetype="application/octet-stream")
    response.headers[tensors.HEADER] = str(json_bytes)
    return response


def _view(model: str, version: str, *, fresh: bool = False) -> ModelView:
    """The model, as it is or was a second ago. Raises UnknownModel, NotFound, NoWorker."""
    jobs = _jobs()
    jobs.models.require(model)
    view = jobs.registry.models(fresh=fresh).get(model)
    if view is None:
        raise NoWorker(f"No model server has announced {model} yet; it may still be starting.")
    model_versions.require(view, version=version)
    return view


def _shown() -> list[ModelView]:
    jobs = _jobs()
    return jobs.models.shown(jobs.registry.models(fresh=True))


def _jobs() -> JobClient:
    jobs: JobClient = current_app.extensions["jobs"]
    return jobs


def _json(body: Any) -> Response:  # noqa: ANN401 - any JSON
    return Response(msgspec.json.encode(body) + b"\n", mimetype=responses.MIMETYPE)
