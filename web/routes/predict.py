"""`POST /predict` and `GET /predictions/<uuid>`.

Owns the shape of requests and answers. What happens between is jobs.py's.
"""

import socket
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Blueprint, Response, current_app, request, url_for
from msgspec import UNSET

from broker.errors import BrokerUnavailable, ClientError, ModelUnavailable, ServiceError, Unavailable
from broker.keys import MODEL_NAME
from broker.messages import Failure, Result
from broker.producer import PendingJob as JobPending
from web import errors, responses
from web.errors import NotFound
from web.jobs import ClientGone, JobClient, SubmittedJob
from web.middleware import request_ids
from web.model_choice import ModelChoice
from web.responses import Answer, AnswerList, Each, ErrorDetail, FailedAnswer, PendingAnswer
from web.uploads import reader
from web.uploads.reader import Picture, Upload

blueprint = Blueprint("predict", __name__)

Outcome = SubmittedJob | Result | ServiceError
"""What became of one picture: it waits for a poller, has its result, or failed."""


@blueprint.post("/predict")
def predict() -> Response:
    """Ask the model of the uploaded pictures: one gives its answer, several a list of answers.

    A client that prefers image/png gets its picture, with the answer drawn on it.
    """
    frontend: JobClient = current_app.extensions["frontend"]
    with frontend.slot():
        since = time.monotonic()
        upload = reader.read(request)
        is_drawn = reader.wants_drawing(request, upload)
        outcomes = _outcomes(frontend, upload, since=since)
        if is_drawn:
            return _drawn(frontend, upload.pictures[0], outcomes[0], since=since)
    return _several(outcomes) if upload.is_list else _one(outcomes[0])


@blueprint.get("/predictions/<job_id>")
def prediction(job_id: str) -> Response:
    """The result of a job that was accepted with `Prefer: respond-async`."""
    frontend: JobClient = current_app.extensions["frontend"]
    model = request.args.get("model") or frontend.models.default
    # The key first: a model that another process has just accepted this job for may be news to this one.
    result = frontend.poll(model, job_id) if _is_uuid(job_id) and MODEL_NAME.fullmatch(model) else None
    if result is None:
        frontend.models.require(model)
        raise NotFound(f"{model!r} has no prediction with this id (any more); ?model= names another.")
    if isinstance(result, JobPending):
        response = responses.respond(_pending(model, job_id), 202)
        response.headers["Retry-After"] = "1"
        return response
    return _one(result)


@blueprint.after_request
def vary(response: Response) -> Response:
    """Tell caches that the answer depends on what the client takes."""
    if request.endpoint == "predict.predict":
        response.vary.add("Accept")
    return response


def _outcomes(frontend: JobClient, upload: Upload, *, since: float) -> list[Outcome]:
    """Enqueue every picture, then wait for every result (a poller's jobs are not waited for)."""
    name = upload.parameters.get("model")
    chosen = frontend.models.choose(name)
    _top(upload, chosen)  # a request that asks for too many is refused whole
    polled = reader.wants_async(request)
    accept = partial(_accept, frontend, upload, polled=polled, since=since)
    client_gone = partial(_client_gone, request.environ)
    outcomes: list[Outcome] = []
    try:
        for picture in upload.pictures:
            if outcomes and isinstance(outcomes[-1], BrokerUnavailable):
                outcomes.append(outcomes[-1])  # each would find out anew, 0.9 s later
                continue
            if outcomes and client_gone():
                raise ClientGone("The client hung up.")
            outcomes.append(_outcome(partial(accept, chosen, picture)))
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, SubmittedJob) and not polled:
                wait = partial(frontend.wait, client_gone=client_gone)
                outcomes[number] = _outcome(partial(wait, outcome))
                if not name and isinstance(outcomes[number], ModelUnavailable):
                    # It was loading when this was accepted: who falls in for it is known only now.
                    again = partial(accept, None, upload.pictures[number])
                    outcomes[number] = _outcome(lambda again=again, wait=wait: wait(again()))  # type: ignore[misc]
    except BaseException:
        for outcome in outcomes:
            if isinstance(outcome, SubmittedJob):
                frontend.abandon(outcome)
        raise
    return outcomes


def _accept(
    frontend: JobClient,
    upload: Upload,
    chosen: ModelChoice | None,
    picture: Picture,
    *,
    polled: bool,
    since: float,
) -> SubmittedJob:
    """Enqueue one picture for the chosen model; None: for whoever answers requests that name none."""
    if isinstance(picture, ClientError):
        raise picture
    chosen = chosen or frontend.models.choose(None)
    return frontend.accept(
        chosen.view,
        picture,
        top=_top(upload, chosen),
        polled=polled,
        traceparent=reader.traceparent(request),
        since=since,
        notice=chosen.notice,
        request_id=request_ids.current(),
    )


def _top(upload: Upload, chosen: ModelChoice) -> int:
    """Predictions in an answer. Raises ClientError for more than the model that was asked for has."""
    asked = reader.top(upload, default=chosen.view.card.top, top_max=chosen.asked.card.top_max)
    return min(asked, chosen.view.card.top_max)


def _outcome(step: Callable[[], SubmittedJob | Result]) -> Outcome:
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
    response = responses.respond(body, _status(outcome))
    if isinstance(body, PendingAnswer):
        response.headers["Location"] = body.location
        response.headers["Preference-Applied"] = "respond-async"
    return response


def _drawn(frontend: JobClient, picture: Picture, outcome: Outcome, *, since: float) -> Response:
    """The annotated picture; a failure as JSON, like any other."""
    if not isinstance(outcome, Result) or outcome.error is not None or isinstance(picture, ClientError):
        return _one(outcome)
    return responses.drawn(frontend.draw(picture, outcome.predictions, since=since), outcome)


def _several(outcomes: list[Outcome]) -> Response:
    """Answers in the order sent, with the first good one's status, else that of the first failure."""
    bodies = [_body(outcome) for outcome in outcomes]
    deciding = next((o for o, body in zip(outcomes, bodies, strict=True) if body.success), outcomes[0])
    success = all(body.success for body in bodies)
    request_id = UNSET if success else request_ids.current()
    several = AnswerList(success=success, results=bodies, request_id=request_id)
    response = responses.respond(several, _status(deciding))
    if isinstance(deciding, SubmittedJob):
        response.headers["Preference-Applied"] = "respond-async"
    if isinstance(deciding, Unavailable):
        response.headers["Retry-After"] = str(deciding.retry_after_s)
    return response


def _body(outcome: Outcome) -> Each:
    match outcome:
        case SubmittedJob():
            return _pending(outcome.model, outcome.job_id, outcome.job.notice)
        case Result():
            return _answer(outcome)
        case ServiceError():
            return errors.body(outcome.code, outcome.message, request_ids.current())


def _status(outcome: Outcome) -> int:
    match outcome:
        case SubmittedJob():
            return 202
        case Result(error=None):
            return 200
        case Result(error=Failure(code=code)) | ServiceError(code=code):
            return errors.STATUS.get(code, 500)
    raise TypeError(f"{outcome!r} is no outcome. This is a bug")


def _answer(result: Result) -> Answer | FailedAnswer:
    """A result as its client sees it."""
    if result.error is not None:
        said = ErrorDetail(result.error.code, result.error.message)
        return FailedAnswer(
            success=False, model=result.model, id=result.id, error=said, request_id=request_ids.current()
        )
    return Answer(
        success=True,
        model=result.model,
        id=result.id,
        predictions=result.predictions,
        notice=result.notice or UNSET,
        model_version=result.model_version,
        engine=result.engine,
        precision=result.precision,
        batch_size=result.batch_size,
        timings_ms=result.timings_ms,
    )


def _pending(model: str, job_id: str, notice: str = "") -> PendingAnswer:
    location = url_for("predict.prediction", job_id=job_id, model=model)
    return PendingAnswer(
        success=True, status="pending", model=model, id=job_id, location=location, notice=notice or UNSET
    )


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
