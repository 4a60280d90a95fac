"""The Open Inference Protocol under `/v2`: metadata, health and inference, as Triton and KServe have them.

Owns the addresses and what an answer has in its head. Pictures, limits and errors are those of `/predict`.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from flask import Blueprint, Response, current_app, request

from broker.errors import ClientError, NoWorker
from broker.messages import Label, Result, WorkerState
from broker.registry import ModelView
from web import responses
from web.dialects.open_inference import infer, metadata, tensors
from web.dialects.open_inference.tensors import BYTES, InferReply, InferRequest, Tensor, WantedOutput
from web.errors import NotFound
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
    view = _view(model, version)
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
    return _json({"model_stats": [metadata.statistics(_view(model, version))]})


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
        pictures = infer.pictures_of(asked, rest, view.card.input)
        timeout_us = asked.parameters.get("timeout", 0) if asked else 0
        if not isinstance(timeout_us, int) or timeout_us < 0:
            raise ClientError("parameters.timeout is a whole number of microseconds.")
        results = infer.good(
            predict.outcomes(
                jobs,
                Upload(pictures, {"model": model}, ["1"] if infer.outputs_of(view.card).has_scores else []),
                started_at=started_at,
                scores=True,
                timeout_s=timeout_us / _MICROSECONDS if timeout_us else math.inf,
            )
        )
    return _answer(view, asked, results)


def _answer(view: ModelView, asked: InferRequest | None, results: list[Result]) -> Response:
    version = results[0].model_version
    labels = _jobs().registry.labels(view.card.model, version)
    known = {tensor.name: tensor for tensor in infer.outputs_of(view.card).read(results, labels)}
    wanted = (asked.outputs if asked else None) or [WantedOutput(name) for name in known]
    is_binary = asked is None or _flag(asked.parameters, "binary_data_output", default=False)
    outputs = []
    for output in wanted:
        if output.name not in known:
            raise ClientError(f"The model has no output {output.name[:40]!r}; it has {', '.join(known)}.")
        tensor = _classified(known[output.name], output, labels)
        outputs.append((tensor, _flag(output.parameters, "binary_data", default=is_binary)))
    told = InferReply(
        model_name=view.card.model, model_version=version, id=asked.id if asked else "", outputs=[]
    )
    body, json_bytes = tensors.encode(told, outputs)
    if json_bytes is None:
        return Response(body, mimetype=responses.MIMETYPE)
    response = Response(body, mimetype="application/octet-stream")
    response.headers[tensors.HEADER] = str(json_bytes)
    return response


def _classified(tensor: Tensor, output: WantedOutput, labels: Sequence[Label]) -> Tensor:
    """The output, or the best classes in its place where the client asks for so many."""
    count = output.parameters.get("classification", 0)
    if not count:
        return tensor
    if not isinstance(count, int) or count < 0 or tensor.datatype == BYTES:
        raise ClientError(f"parameters.classification of {tensor.name!r} is the number of best classes.")
    return infer.best_classes(tensor, count, labels)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ClientError(f"The parameter {name} is true or false.")
    return value


def _view(model: str, version: str) -> ModelView:
    """The model as it is now. Raises UnknownModel, NotFound, NoWorker."""
    jobs = _jobs()
    jobs.models.require(model)
    view = jobs.registry.models().get(model)
    if view is None:
        raise NoWorker(f"No model server has announced {model} yet; it may still be starting.")
    if version not in ("", view.card.model_version):
        raise NotFound(f"{model} has no version {version[:40]!r}; it has {view.card.model_version}.")
    return view


def _shown() -> list[ModelView]:
    jobs = _jobs()
    return jobs.models.shown(jobs.registry.models(fresh=True))


def _jobs() -> JobClient:
    jobs: JobClient = current_app.extensions["jobs"]
    return jobs


def _json(body: Any) -> Response:  # noqa: ANN401 - any JSON
    return Response(msgspec.json.encode(body) + b"\n", mimetype=responses.MIMETYPE)
