"""`POST /predict` and `GET /predictions/<uuid>`.

Owns the shape of requests and answers. What happens between is frontend.py's.
"""

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request, url_for

from broker.errors import BrokerUnavailable, ServiceError, Unavailable
from broker.keys import MODEL_NAME
from broker.messages import Failure, Result
from broker.producer import Pending
from web import errors, uploads
from web.errors import NotFound
from web.frontend import Accepted, ClientGone, Frontend

blueprint = Blueprint("predict", __name__)

Outcome = Accepted | Result | ServiceError
"""What became of one picture: it waits for a poller, has its result, or failed."""


@blueprint.post("/predict")
def predict() -> Response:
    """Classify the uploaded pictures: one gives its answer, several a list of answers."""
    frontend: Frontend = current_app.extensions["frontend"]
    with frontend.slot():
        outcomes = _outcomes(frontend)
    return _one(outcomes[0]) if len(outcomes) == 1 else _several(outcomes)


@blueprint.get("/predictions/<job_id>")
def prediction(job_id: str) -> Response:
    """The result of a job that was accepted with `Prefer: respond-async`."""
    frontend: Frontend = current_app.extensions["frontend"]
    model = request.args.get("model") or current_app.config["DEFAULT_MODEL"]
    result = frontend.poll(model, job_id) if _is_uuid(job_id) and MODEL_NAME.fullmatch(model) else None
    if result is None:
        raise NotFound(f"{model[:60]!r} has no prediction with this id (any more); ?model= names another.")
    if isinstance(result, Pending):
        response = jsonify(_pending(model, job_id))
        response.status_code = 202
        response.headers["Retry-After"] = "1"
        return response
    return _one(result)


def _outcomes(frontend: Frontend) -> list[Outcome]:
    """Enqueue every picture, then wait for every result (a poller's jobs are not waited for)."""
    since = time.monotonic()
    upload = uploads.read(request)
    view = frontend.model(upload.parameters.get("model") or current_app.config["DEFAULT_MODEL"])
    top = uploads.top(upload, default=view.card.top, top_max=view.card.top_max)
    polled = uploads.wants_async(request)
    traceparent = uploads.traceparent(request)
    outcomes: list[Outcome] = []
    try:
        for picture in upload.pictures:
            if outcomes and isinstance(outcomes[-1], BrokerUnavailable):
                outcomes.append(outcomes[-1])  # each would find out anew, 0.9 s later
                continue
            if outcomes and _client_gone(request.environ):
                raise ClientGone("The client hung up.")
            accept = partial(frontend.accept, view, picture, top=top, polled=polled, traceparent=traceparent)
            outcomes.append(_outcome(partial(accept, since=since)))
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Accepted) and not polled:
                wait = partial(frontend.wait, outcome, client_gone=partial(_client_gone, request.environ))
                outcomes[number] = _outcome(wait)
    except BaseException:
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                frontend.abandon(outcome)
        raise
    return outcomes


def _outcome(step: Callable[[], Accepted | Result]) -> Outcome:
    """What a step makes of one picture. Raises ClientGone: then nobody waits for the others either."""
    try:
        return step()
    except ClientGone:
        raise
    except ServiceError as error:
        return error


def _one(outcome: Outcome) -> Response:
    """The answer for a single picture."""
    if isinstance(outcome, ServiceError):
        raise outcome
    body = _body(outcome)
    response = jsonify(body)
    response.status_code = _status(outcome)
    if isinstance(outcome, Accepted):
        response.headers["Location"] = body["location"]
        response.headers["Preference-Applied"] = "respond-async"
    return response


def _several(outcomes: list[Outcome]) -> Response:
    """Answers in the order sent, with the first good one's status, else that of the first failure."""
    bodies = [_body(outcome) for outcome in outcomes]
    deciding = next((o for o, body in zip(outcomes, bodies, strict=True) if body["success"]), outcomes[0])
    response = jsonify(success=all(body["success"] for body in bodies), results=bodies)
    response.status_code = _status(deciding)
    if isinstance(deciding, Accepted):
        response.headers["Preference-Applied"] = "respond-async"
    if isinstance(deciding, Unavailable):
        response.headers["Retry-After"] = str(deciding.retry_after_s)
    return response


def _body(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Accepted():
            return _pending(outcome.model, outcome.job_id)
        case Result():
            return _answer(outcome)
        case ServiceError():
            return errors.body(outcome.code, outcome.message)


def _status(outcome: Outcome) -> int:
    match outcome:
        case Accepted():
            return 202
        case Result(error=None):
            return 200
        case Result(error=Failure(code=code)) | ServiceError(code=code):
            return errors.STATUS.get(code, 500)
    raise TypeError(f"{outcome!r} is no outcome. This is a bug")


def _answer(result: Result) -> dict[str, Any]:
    """A result as its client sees it."""
    answer: dict[str, Any] = {"success": result.error is None, "model": result.model, "id": result.id}
    if result.error is not None:
        answer["error"] = {"code": result.error.code, "message": result.error.message}
        return answer
    answer["predictions"] = [asdict(prediction) for prediction in result.predictions]
    if result.notice:
        answer["notice"] = result.notice
    answer["model_version"] = result.model_version
    answer["engine"] = result.engine
    answer["precision"] = result.precision
    answer["batch_size"] = result.batch_size
    answer["timings_ms"] = asdict(result.timings_ms)
    return answer


def _pending(model: str, job_id: str) -> dict[str, Any]:
    location = url_for("predict.prediction", job_id=job_id, model=model)
    return {"success": True, "status": "pending", "model": model, "id": job_id, "location": location}


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _client_gone(environ: Mapping[str, Any]) -> bool:
    """Whether the client has closed its side: its socket has an end of file to read, and nothing else."""
    client = environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):  # a test client has none
        return False
    try:
        # The socket must have no time-out of Python's: with one, this would wait for it.
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
