"""`POST /predict`.

Owns the shape of requests and answers. What happens in between is jobs.py's; what becomes of a job that is
polled, predictions.py's.
"""

import contextlib
import dataclasses
import math
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import numpy as np
from flask import Blueprint, Response, current_app, request, url_for
from msgspec import UNSET, UnsetType

from broker.errors import (
    BrokerUnavailable,
    ClientError,
    DeadlinePassed,
    IdempotencyKeyReused,
    ModelUnavailable,
    Overloaded,
    ServiceError,
    Unavailable,
)
from broker.messages import Result
from broker.producer import PendingJob, RequestName, StoredJob
from web import answers, errors, idempotency, pipelines, responses
from web.idempotency import IdempotentRequest
from web.jobs import ClientGone, FollowedJob, JobClient, JobOptions, SubmittedJob
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

Polled = SubmittedJob | PolledPipeline | FollowedJob
"""A picture that waits for a poller."""
SubmittedResult = Polled | Result | ServiceError
"""What became of one picture: it waits for a poller, has its result, or failed."""
PictureResult = SubmittedResult | StoredJob
"""The same after a wait for a polled one, whose result can be polled as well."""


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
        named = idempotency.read(request, upload)
        results: Sequence[PictureResult] = _results(jobs, upload, options, named)
        if wanted.polled and (wanted.wait_s or named):
            until = jobs.longest_wait_until(wanted.wait_s)
            results = _awaited(jobs, results, until=until, is_named=named is not None)
        if wanted.drawn:
            return _drawn(jobs, upload.pictures[0], results[0], started_at=started_at)
    response = _several(results) if upload.is_list else one(results[0], is_named=upload.field == "file")
    if wanted.polled and response.status_code < 400:
        response.headers["Preference-Applied"] = preferences.applied(polled=True, wait_s=wanted.wait_s)
    return response


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


@blueprint.after_request
def vary(response: Response) -> Response:
    """Tell caches that the answer depends on what the client takes."""
    if request.endpoint == "predict.predict":
        response.vary.add("Accept")
    return response


def _results(
    jobs: JobClient, upload: Upload, options: JobOptions, named: IdempotentRequest | None = None
) -> list[SubmittedResult]:
    """What becomes of every picture: all are submitted, then waited for (but not a poller's)."""
    choice = jobs.models.choose(upload.parameters.get("model"), is_polled=options.polled)
    upload = dataclasses.replace(upload, pictures=jobs.within_pixels(upload.pictures))
    # A request that asks for too many predictions is refused whole.
    top = reader.top(upload, choice.view.card, asked=choice.asked.card)
    with jobs.share(choice.view.card.model):
        if choice.view.card.steps:
            return _by_steps(jobs, choice, upload, options, named)
        return _by_model(jobs, choice, upload, options, named, top=top)


def _by_model(
    jobs: JobClient,
    choice: ModelChoice,
    upload: Upload,
    options: JobOptions,
    named: IdempotentRequest | None,
    *,
    top: int,
) -> list[SubmittedResult]:
    results: list[SubmittedResult] = []
    try:
        for number, picture in enumerate(upload.pictures):
            if results and isinstance(results[-1], BrokerUnavailable):
                results.append(results[-1])  # each would find that out again, 0.9 s later
                continue
            if results and is_client_gone():
                raise ClientGone("The client closed the connection.")
            name = named.picture(number) if named else None
            results.append(_submitted(jobs, choice, picture, options, top=top, name=name))
        for number, job in enumerate(results):
            if isinstance(job, SubmittedJob | FollowedJob) and not options.polled:
                try:
                    results[number] = _waited(jobs, job, options)
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


def _submitted(
    jobs: JobClient,
    choice: ModelChoice,
    picture: Picture,
    options: JobOptions,
    *,
    top: int,
    name: RequestName | None,
) -> SubmittedResult:
    """One picture's job, or why there is none. Raises what is the fault of the whole request."""
    try:
        if isinstance(picture, ClientError):
            raise picture
        return jobs.submit_once(choice, picture, options, top=top, name=name)
    except IdempotencyKeyReused:
        raise
    except ServiceError as error:
        return error


def _waited(jobs: JobClient, job: Polled, options: JobOptions) -> Result:
    """The result of a job whose client waits to the end. Raises as JobClient.wait does."""
    if isinstance(job, SubmittedJob):
        return jobs.wait(job, is_client_gone=is_client_gone)
    until = jobs.wait_until(options)
    stored = jobs.follow(job.model, job.id, until=until, is_client_gone=is_client_gone)
    if stored is None:
        raise _lost()
    if isinstance(stored.state, PendingJob):
        raise DeadlinePassed(f"No answer came in {until - options.started_at:g} s.")
    return stored.result


def _lost() -> Unavailable:
    return Unavailable("The job was cancelled, or Redis has lost it: send the picture again.")


def _by_steps(
    jobs: JobClient,
    choice: ModelChoice,
    upload: Upload,
    options: JobOptions,
    named: IdempotentRequest | None,
) -> list[SubmittedResult]:
    pictures = [
        ClientError(f"{choice.view.card.model} is a pipeline: it takes encoded pictures, and no pixels.")
        if isinstance(picture, np.ndarray)
        else picture
        for picture in upload.pictures
    ]
    if not (options.polled or named):
        return [*pipelines.run(jobs, choice, pictures, options, is_client_gone=is_client_gone)]
    polled: PolledPipelines = current_app.extensions["polled_pipelines"]
    results: list[SubmittedResult] = []
    for number, picture in enumerate(pictures):
        try:
            if isinstance(picture, ClientError):
                raise picture
            if results and isinstance(results[-1], BrokerUnavailable):
                raise results[-1]  # each would find that out again, 0.9 s later
            results.append(polled.start(choice, picture, options, named.picture(number) if named else None))
        except IdempotencyKeyReused:  # of the request, not of this picture
            raise
        except ServiceError as error:
            results.append(error)
    if not options.polled:
        for number, job in enumerate(results):
            if isinstance(job, Polled):
                try:
                    results[number] = _waited(jobs, job, options)
                except ClientGone:
                    raise
                except ServiceError as error:
                    results[number] = error
    return results


def _awaited(
    jobs: JobClient, results: Sequence[PictureResult], *, until: float, is_named: bool
) -> list[PictureResult]:
    """What became of jobs that are polled after a wait for their results: what is not there is polled."""
    awaited: list[PictureResult] = list(results)
    try:
        for number, job in enumerate(results):
            # One that was submitted just now is looked at only where its client waits for it.
            if not isinstance(job, Polled if time.monotonic() < until else FollowedJob):
                continue
            try:
                stored = jobs.follow(job.model, job.id, until=until, is_client_gone=is_client_gone)
            except ClientGone:
                raise
            except ServiceError as error:
                awaited[number] = error
            else:
                if stored is None:  # a killed Redis came back without it
                    awaited[number] = _lost()
                elif not isinstance(stored.state, PendingJob):
                    awaited[number] = stored
    except ClientGone:
        # It was not told where to poll.
        for job in results:
            if isinstance(job, Polled) and not is_named:
                with contextlib.suppress(BrokerUnavailable):
                    jobs.delete(job.model, job.id)
        raise
    return awaited


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
        return _waited(jobs, jobs.submit(choice, picture, options, top=top), options)
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


def one(result: PictureResult, *, is_named: bool = False) -> Response:
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
    return response


def _drawn(jobs: JobClient, picture: Picture, result: PictureResult, *, started_at: float) -> Response:
    """The annotated picture; a failure as JSON, like any other."""
    if not isinstance(result, Result) or result.error is not None or not isinstance(picture, bytes):
        return one(result)
    shown = jobs.draw(picture, pipelines.drawable(result), started_at=started_at)
    return responses.drawn(shown, result)


def _several(results: Sequence[PictureResult]) -> Response:
    """Answers in the order sent, with the first good one's status, else that of the first failure."""
    shown = [_shown(result) for result in results]
    deciding = next((number for number, (body, _) in enumerate(shown) if body.success), 0)
    success = all(body.success for body, _ in shown)
    request_id = UNSET if success else request_ids.current()
    several = AnswerList(success=success, results=[body for body, _ in shown], request_id=request_id)
    response = responses.respond(several, shown[deciding][1])
    result = results[deciding]
    if isinstance(result, Unavailable):
        response.headers["Retry-After"] = str(result.retry_after_s)
    return response


def _shown(result: PictureResult) -> tuple[Each, int]:
    """A picture's result as its client sees it, and the status of an answer with it alone."""
    if isinstance(result, Polled):
        return pending(result.model, result.id, expires_at=result.expires_at, notice=result.notice), 202
    if isinstance(result, ServiceError):
        body = errors.body(result.code, result.message, request_ids.current())
        return body, errors.STATUS.get(result.code, 500)
    expires_at: datetime | UnsetType = UNSET
    if isinstance(result, StoredJob):
        expires_at = responses.time_of(result.expires_at)
        result = result.result
    status = 200 if result.error is None else errors.STATUS.get(result.error.code, 500)
    return answers.of(result, request_id=request_ids.current(), expires_at=expires_at), status


def pending(model: str, job_id: str, *, expires_at: float, notice: str = "") -> PendingAnswer:
    """The answer for a job that has no result yet, which is kept until then at most (Redis' time)."""
    return PendingAnswer(
        success=True,
        status="pending",
        model=model,
        id=job_id,
        location=url_for("predictions.prediction", job_id=job_id, model=model),
        expires_at=responses.time_of(expires_at),
        notice=notice or UNSET,
    )


def is_client_gone() -> bool:
    """Whether the client of this request is gone, as `has_client_gone` says."""
    return has_client_gone(request.environ)


def has_client_gone(environ: dict[str, Any], *, has_begun: bool = False) -> bool:
    """Whether the client has closed its connection, and not only its side of it (RFC 9112, section 9.6).

    Its socket has an end of file to read in both cases. So an interim answer is sent, which every client of
    HTTP/1.1 passes over: the system of one that is gone resets the connection, and the next look sees that.
    Where the answer `has_begun`, none can be sent, and both count as gone.
    """
    client = environ.get("gunicorn.socket")
    if not isinstance(client, socket.socket):  # a test client has none
        return False
    try:
        # The socket must have no time-out of Python's: with one, this would wait for it.
        if client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            return False
        if has_begun or environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
            return True
        if environ.get(_PROBED):
            # A reset after the end of file is not read, but kept as the socket's error.
            return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        environ[_PROBED] = True
        client.send(_INTERIM, socket.MSG_DONTWAIT)
        return False
    except BlockingIOError:
        return False
    except OSError:
        return True
