"""`POST /predict` and `GET /predictions/<uuid>`.

Owns the shape of requests and answers. What happens in between is jobs.py's.
"""

import dataclasses
import math
import socket
import time
import uuid
from typing import Final
from urllib.parse import parse_qs

import msgspec
import numpy as np
from flask import Blueprint, Response, current_app, request, url_for
from msgspec import UNSET

from broker.errors import (
    BrokerUnavailable,
    ClientError,
    ModelUnavailable,
    Overloaded,
    ServiceError,
    Unavailable,
)
from broker.keys import MODEL_NAME
from broker.messages import Result
from broker.producer import PendingJob
from web import answers, errors, pipelines, responses
from web.errors import NotFound
from web.jobs import ClientGone, JobClient, JobOptions, SubmittedJob
from web.middleware import request_ids
from web.model_choice import ModelChoice
from web.polled_pipelines import PolledPipeline, PolledPipelines
from web.responses import Answer, AnswerList, Each, PendingAnswer
from web.server.request_reader import Arrival
from web.uploads import preferences, reader
from web.uploads.reader import Picture, Upload

blueprint = Blueprint("predict", __name__)

_PROBED: Final = "batchwire.is_client_probed"
_INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

Polled = SubmittedJob | PolledPipeline
"""A picture that waits for a poller."""
PictureResult = Polled | Result | ServiceError
"""What became of one picture: it waits for a poller, has its result, or failed."""


@blueprint.post("/predict")
def predict() -> Response:
    """Ask the model of the uploaded pictures: one gives its answer, several a list of answers.

    A client that prefers image/png gets its picture, with the answer drawn on it.
    """
    jobs: JobClient = current_app.extensions["jobs"]
    with jobs.slot():
        started_at = time.monotonic()
        upload = reader.read(request)
        wanted = preferences.read(request, upload)
        options = JobOptions(
            started_at=started_at,
            polled=wanted.polled,
            traceparent=wanted.traceparent,
            request_id=request_ids.current(),
        )
        results = _results(jobs, upload, options)
        if wanted.drawn:
            return _drawn(jobs, upload.pictures[0], results[0], started_at=started_at)
    return _several(results) if upload.is_list else _one(results[0], is_named=upload.field == "file")


def turned_away(jobs: JobClient, arrival: Arrival) -> Overloaded | None:
    """The refusal of a request that this process need not look at closer, for it has just refused the same.

    The loop asks (web/server/worker.py). Through a thread and the app a refusal costs 2 ms of the processor:
    600 a second left a slow network 3 of 42 s.
    """
    head, refusals = arrival.head, jobs.refusals
    if not refusals or (head.method, head.path) != ("POST", "/predict") or head.has_preference:
        return None
    model = parse_qs(head.query).get("model", [""])[0]
    if not model and arrival.mentions(b"model"):  # in a form or in JSON: it must be read
        return None
    return refusals.of(model or jobs.models.default)


@blueprint.get("/predictions/<job_id>")
def prediction(job_id: str) -> Response:
    """The result of a job that was submitted with `Prefer: respond-async`."""
    jobs: JobClient = current_app.extensions["jobs"]
    model = request.args.get("model") or jobs.models.default
    # The key first: a model that another process has just enqueued this job for may be news to this one.
    result = jobs.poll(model, job_id) if _is_uuid(job_id) and MODEL_NAME.fullmatch(model) else None
    if result is None:
        jobs.models.require(model)
        raise NotFound(f"{model!r} has no prediction with this id (any more); ?model= names another.")
    if isinstance(result, PendingJob):
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


def _results(jobs: JobClient, upload: Upload, options: JobOptions) -> list[PictureResult]:
    """What becomes of every picture: all are submitted, then waited for (but not a poller's)."""
    choice = jobs.models.choose(upload.parameters.get("model"))
    upload = dataclasses.replace(upload, pictures=jobs.within_pixels(upload.pictures))
    # A request that asks for too many predictions is refused whole.
    top = reader.top(upload, choice.view.card, asked=choice.asked.card)
    with jobs.share(choice.view.card.model):
        if choice.view.card.steps:
            return _by_steps(jobs, choice, upload, options)
        return _by_model(jobs, choice, upload, options, top=top)


def _by_model(
    jobs: JobClient, choice: ModelChoice, upload: Upload, options: JobOptions, *, top: int
) -> list[PictureResult]:
    results: list[PictureResult] = []
    try:
        for picture in upload.pictures:
            if results and isinstance(results[-1], BrokerUnavailable):
                results.append(results[-1])  # each would find that out again, 0.9 s later
                continue
            if results and _is_client_gone():
                raise ClientGone("The client closed the connection.")
            try:
                if isinstance(picture, ClientError):
                    raise picture
                results.append(jobs.submit(choice, picture, options, top=top))
            except ServiceError as error:
                results.append(error)
        for number, job in enumerate(results):
            if isinstance(job, SubmittedJob) and not options.polled:
                try:
                    results[number] = jobs.wait(job, is_client_gone=_is_client_gone)
                except ClientGone:
                    raise
                except ServiceError as error:
                    # A default that failed meanwhile has a fallback, perhaps.
                    is_default = isinstance(error, ModelUnavailable) and not upload.parameters.get("model")
                    picture = upload.pictures[number]
                    results[number] = _by_fallback(jobs, upload, options, picture) if is_default else error
    except BaseException:
        for result in results:
            if isinstance(result, SubmittedJob):
                jobs.cancel(result)
        raise
    return results


def _by_steps(
    jobs: JobClient, choice: ModelChoice, upload: Upload, options: JobOptions
) -> list[PictureResult]:
    pictures = [
        ClientError(f"{choice.view.card.model} is a pipeline: it takes encoded pictures, and no pixels.")
        if isinstance(picture, np.ndarray)
        else picture
        for picture in upload.pictures
    ]
    if not options.polled:
        return [*pipelines.run(jobs, choice, pictures, options, is_client_gone=_is_client_gone)]
    polled: PolledPipelines = current_app.extensions["polled_pipelines"]
    results: list[PictureResult] = []
    for picture in pictures:
        try:
            if isinstance(picture, ClientError):
                raise picture
            if results and isinstance(results[-1], BrokerUnavailable):
                raise results[-1]  # each would find that out again, 0.9 s later
            results.append(polled.start(choice, picture, options))
        except ServiceError as error:
            results.append(error)
    return results


def _by_fallback(
    jobs: JobClient, upload: Upload, options: JobOptions, picture: Picture
) -> Result | ServiceError:
    """One picture's result where the default failed after it was submitted: only now is its fallback known.

    Raises ClientGone.
    """
    try:
        choice = jobs.models.choose(None)
        top = reader.top(upload, choice.view.card, asked=choice.asked.card)
        if isinstance(picture, ClientError):
            return picture
        job = jobs.submit(choice, picture, options, top=top)
        return jobs.wait(job, is_client_gone=_is_client_gone)
    except ClientGone:
        raise
    except ServiceError as error:
        return error


def outcomes(
    jobs: JobClient,
    upload: Upload,
    *,
    started_at: float,
    scores: bool = False,
    timeout_s: float = math.inf,
) -> list[Result | ServiceError]:
    """What became of each picture, for the routes of web/dialects: its result, or the error it ended in.

    Waits for all, for `timeout_s` at most. `scores`: a result has the probability of every label, too. Raises
    a ServiceError of the whole request.
    """
    options = JobOptions(
        started_at=started_at,
        traceparent=preferences.traceparent(request),
        request_id=request_ids.current(),
        scores=scores,
        timeout_s=timeout_s,
    )
    results: list[Result | ServiceError] = []
    for result in _results(jobs, upload, options):
        if isinstance(result, Polled):
            raise TypeError(f"{result!r} was not waited for. This is a bug")
        if isinstance(result, Result) and result.error is not None:
            results.append(answers.error_of(result.error))
        else:
            results.append(result)
    return results


def _one(result: PictureResult, *, is_named: bool = False) -> Response:
    """The answer for a single picture; `is_named`: with the best class beside the predictions."""
    if isinstance(result, ServiceError):
        raise result
    body, status = _shown(result)
    if is_named and isinstance(body, Answer) and body.predictions:
        best = body.predictions[0]
        body = msgspec.structs.replace(body, class_id=best.class_id, class_name=best.label)
    response = responses.respond(body, status)
    if isinstance(body, PendingAnswer):
        response.headers["Location"] = body.location
        response.headers["Preference-Applied"] = "respond-async"
    return response


def _drawn(jobs: JobClient, picture: Picture, result: PictureResult, *, started_at: float) -> Response:
    """The annotated picture; a failure as JSON, like any other."""
    if not isinstance(result, Result) or result.error is not None or not isinstance(picture, bytes):
        return _one(result)
    shown = jobs.draw(picture, pipelines.drawable(result), started_at=started_at)
    return responses.drawn(shown, result)


def _several(results: list[PictureResult]) -> Response:
    """Answers in the order sent, with the first good one's status, else that of the first failure."""
    shown = [_shown(result) for result in results]
    deciding = next((number for number, (body, _) in enumerate(shown) if body.success), 0)
    success = all(body.success for body, _ in shown)
    request_id = UNSET if success else request_ids.current()
    several = AnswerList(success=success, results=[body for body, _ in shown], request_id=request_id)
    response = responses.respond(several, shown[deciding][1])
    result = results[deciding]
    if isinstance(result, Polled):
        response.headers["Preference-Applied"] = "respond-async"
    if isinstance(result, Unavailable):
        response.headers["Retry-After"] = str(result.retry_after_s)
    return response


def _shown(result: PictureResult) -> tuple[Each, int]:
    """A picture's result as its client sees it, and the status of an answer with it alone."""
    if isinstance(result, SubmittedJob):
        return _pending(result.model, result.job.id, result.job.notice), 202
    if isinstance(result, PolledPipeline):
        return _pending(result.model, result.id, result.notice), 202
    if isinstance(result, ServiceError):
        body = errors.body(result.code, result.message, request_ids.current())
        return body, errors.STATUS.get(result.code, 500)
    status = 200 if result.error is None else errors.STATUS.get(result.error.code, 500)
    return answers.of(result, request_id=request_ids.current()), status


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


def _is_client_gone() -> bool:
    """Whether the client has closed its connection, and not only its side of it (RFC 9112, section 9.6).

    Its socket has an end of file to read in both cases. So an interim answer is sent, which every client of
    HTTP/1.1 passes over: the system of one that is gone resets the connection, and the next look sees that.
    """
    client = request.environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):  # a test client has none
        return False
    try:
        # The socket must have no time-out of Python's: with one, this would wait for it.
        if client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            return False
        if request.environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
            return True
        if request.environ.get(_PROBED):
            # A reset after the end of file is not read, but kept as the socket's error.
            return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        request.environ[_PROBED] = True
        client.send(_INTERIM, socket.MSG_DONTWAIT)
        return False
    except BlockingIOError:
        return False
    except OSError:
        return True
