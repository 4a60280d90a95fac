"""The Open Inference Protocol under `/v2`: metadata, health and inference, as Triton and KServe have them.

Owns the addresses and what an answer has in its head. Pictures, limits and errors are those of `/predict`.
"""

import time
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, current_app, request
from msgspec import UNSET

from broker.errors import ClientError
from broker.messages import Result
from broker.registry import ModelView
from web import responses
from web.dialects.open_inference import infer, metadata, models, tensors
from web.dialects.open_inference.tensors import InferReply, InferRequest, WantedOutput
from web.jobs import JobClient
from web.routes import predict
from web.uploads import reader

blueprint = Blueprint("open_inference", __name__, url_prefix="/v2")

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
    models.require_any_ready(_jobs())
    return _json({"ready": True, "live": True})


@blueprint.get("/models", endpoint="models")
def model_names() -> Response:
    """The names of the models."""
    return _json({"models": [view.card.model for view in models.shown(_jobs())]})


@blueprint.get(_MODEL)
@blueprint.get(_VERSION)
def model_metadata(model: str, version: str = "") -> Response:
    """A model's inputs, outputs and labels."""
    view = models.named(_jobs(), model, version=version)
    return _json(metadata.model(view, _jobs().registry.labels(model, view.card.model_version)))


@blueprint.get(f"{_MODEL}/ready")
@blueprint.get(f"{_VERSION}/ready")
def model_ready(model: str, version: str = "") -> Response:
    """Say whether a model can be asked."""
    models.require_ready(_jobs(), model, version=version)
    return _json({"name": model, "ready": True})


@blueprint.get(f"{_MODEL}/config")
@blueprint.get(f"{_VERSION}/config")
def model_config(model: str, version: str = "") -> Response:
    """A model's configuration, as Triton has it."""
    return _json(metadata.config(models.named(_jobs(), model, version=version)))


@blueprint.get(f"{_MODEL}/stats")
@blueprint.get(f"{_VERSION}/stats")
def model_statistics(model: str, version: str = "") -> Response:
    """How many pictures a model has answered."""
    return _json(
        {"model_stats": [metadata.statistics(models.named(_jobs(), model, version=version, fresh=True))]}
    )


@blueprint.get("/models/stats")
def statistics() -> Response:
    """How many pictures each model has answered."""
    return _json({"model_stats": [metadata.statistics(view) for view in models.shown(_jobs())]})


@blueprint.post("/repository/index")
def repository() -> Response:
    """All models with their states."""
    return _json([metadata.indexed(view) for view in models.shown(_jobs())])


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
    with jobs.places.slot():
        started_at = time.monotonic()
        view = models.named(jobs, model, version=version)
        asked, rest = tensors.read_request(reader.body(request), request.headers.get(tensors.HEADER))
        wanted = infer.wanted_outputs(asked, view.card)
        results = infer.good(
            predict.outcomes(
                infer.upload_of(asked, rest, view.card),
                started_at=started_at,
                scores=True,
                within_s=infer.timeout_s(asked),
            )
        )
    infer.require_one_version(results, view, version=version)
    return _answer(view, asked, wanted, results)


def _answer(
    view: ModelView, asked: InferRequest | None, wanted: list[WantedOutput], results: list[Result]
) -> Response:
    version = results[0].model_version
    labels = _jobs().registry.labels(view.card.model, version)
    is_binary = asked is None or asked.parameters.binary_data_output
    found = infer.answered(
        view.card, results, labels, wanted, is_named=asked is not None and bool(asked.outputs)
    )
    outputs = [
        (tensor, is_binary if output.parameters.binary_data is UNSET else output.parameters.binary_data)
        for tensor, output in zip(found, [*wanted, WantedOutput(infer.OWN_FIELDS)], strict=False)
    ]
    told = InferReply(
        model_name=view.card.model, model_version=version, id=asked.id if asked else "", outputs=[]
    )
    body, json_bytes = tensors.encode(told, outputs)
    if json_bytes is None:
        return Response(body, mimetype=responses.MIMETYPE)
    response = Response(body, mimetype="application/octet-stream")
    response.headers[tensors.HEADER] = str(json_bytes)
    return response


def _jobs() -> JobClient:
    jobs: JobClient = current_app.extensions["jobs"]
    return jobs


def _json(body: Any) -> Response:  # noqa: ANN401 - any JSON
    return Response(msgspec.json.encode(body) + b"\n", mimetype=responses.MIMETYPE)
