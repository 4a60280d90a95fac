"""`POST /predict`.

Owns the shape of requests and answers. What happens in between is inference.py's; what becomes of a job that
is polled, predictions.py's.
"""

import math
import re
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from flask import Blueprint, Response, current_app, request, url_for
from msgspec import UNSET, UnsetType

from broker.errors import ServiceError, Unavailable
from broker.messages import Result
from broker.producer import StoredJob
from telemetry import tracing
from web import answers, errors, idempotency, metrics, pipelines, responses
from web.inference import Caller, Inference, PictureResult, Polled
from web.jobs import JobClient, JobOptions
from web.keys import access
from web.keys.http_guard import LoopGuard
from web.middleware import request_ids
from web.responses import Answer, AnswerList, Each, PendingAnswer
from web.server.answer_socket import AnswerSocket
from web.server.request_reader import Arrival
from web.uploads import preferences, reader
from web.uploads.parameters import CALLBACK_URL, PRIORITY, TIMEOUT, timeout_s
from web.uploads.reader import Picture, Upload
from web.webhooks.callback_hosts import CallbackHosts

blueprint = Blueprint("predict", __name__)

ASKS_MODELS: Final = re.compile(
    r"/(?:predict|similarity|infer|run|classify|upload|predictions/.+|v1/models/.+:\w+|v2/models/.+/infer)"
)
"""The addresses whose pictures count for an API key's limits."""

_PROBED: Final = "batchwire.is_client_probed"
_INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@blueprint.post("/predict")
def predict() -> Response:
    """Ask the model of the uploaded pictures: one gives its answer, several a list of answers.

    A client that prefers image/png gets its picture, with the answer drawn on it.
    """
    inference: Inference = current_app.extensions["inference"]
    jobs = inference.jobs
    with jobs.places.slot():
        started_at = time.monotonic()
        upload = reader.read(request)
        wanted = preferences.read(request, upload)
        if callback_url := upload.parameters.get(CALLBACK_URL, ""):
            hosts: CallbackHosts = current_app.extensions["callback_hosts"]
            hosts.target(callback_url)  # refused now, not at the job's end
        options = _options(jobs, upload, started_at, polled=wanted.polled, callback_url=callback_url)
        key = request.headers.get(idempotency.HEADER)
        named = idempotency.read(key, upload) if key is not None else None
        caller = Caller(options, is_client_gone, named)
        results: Sequence[PictureResult] = inference.run(upload, caller)
        if wanted.polled and (wanted.wait_s or caller.named):
            results = inference.awaited(results, caller, until=jobs.longest_wait_until(wanted.wait_s))
        if wanted.drawn:
            return _drawn(jobs, upload.pictures[0], results[0], started_at=started_at)
    response = _several(results) if upload.is_list else one(results[0], is_named=upload.field == "file")
    if wanted.polled and response.status_code < 400:
        applied = preferences.applied(polled=wanted.prefers_async, wait_s=wanted.wait_s)
        if applied:
            response.headers["Preference-Applied"] = applied
    return response


def turned_away(
    jobs: JobClient, arrival: Arrival, *, lane: str | None = "", guard: LoopGuard | None = None
) -> ServiceError | None:
    """The refusal of a request that this process need not look at closer.

    It has no API key, where `guard` asks for one; or this process has just refused the same. The loop asks
    (web/server/worker.py). Through a thread and the app a refusal costs 2 ms of the processor: 600 a second
    left a slow network 3 of 42 s.
    """
    head, refusals = arrival.head, jobs.refusals
    key = guard.key(head) if guard is not None else None
    if guard is not None and key is None and (refusal := guard.refusal(head)) is not None:
        return refusal
    if not refusals:
        return None
    asks_models = head.method in ("POST", "PUT") and ASKS_MODELS.fullmatch(head.path)
    if key is not None and asks_models and (limited := refusals.of_owner(key.name)) is not None:
        if isinstance(limited, errors.RateLimited | errors.TooManyJobs):
            metrics.limited(key.name, limited.code)
        return limited
    if (head.method, head.path) != ("POST", "/predict") or head.has_preference:
        return None
    query = parse_qs(head.query)
    if guard is not None:
        if arrival.mentions(PRIORITY.encode()):
            return None
        lane = guard.lane(key, query.get(PRIORITY, [""])[0])
    model = query.get("model", [""])[0]
    if not model and arrival.mentions(b"model"):  # in a form or in JSON: it must be read
        return None
    # Others are refused by another share of the queue.
    if CALLBACK_URL in head.query or arrival.mentions(CALLBACK_URL.encode()):
        return None
    return refusals.of(model or jobs.models.default, lane=lane) if lane is not None else None


def outcomes(
    upload: Upload, *, started_at: float, scores: bool = False, within_s: float = math.inf
) -> list[Result | ServiceError]:
    """What became of each picture, for the routes of web/dialects: its result, or the error it ended in.

    Waits for all, for `within_s` at most. `scores`: a result has the probability of every label, too. Raises
    a ServiceError of the whole request.
    """
    inference: Inference = current_app.extensions["inference"]
    options = _options(inference.jobs, upload, started_at, scores=scores, within_s=within_s)
    return inference.outcomes(upload, Caller(options, is_client_gone))


def _options(
    jobs: JobClient,
    upload: Upload,
    started_at: float,
    *,
    polled: bool = False,
    callback_url: str = "",
    scores: bool = False,
    within_s: float = math.inf,
) -> JobOptions:
    """What this thread's request asks of its jobs. Raises ClientError, Forbidden."""
    parameters, key, trace = upload.parameters, access.KEY.get(), request.headers.get("traceparent")
    has_lane = key is not None or PRIORITY in parameters
    most_s = jobs.limits.async_timeout_s if polled else jobs.limits.request_timeout_s
    asked_s = timeout_s(parameters) if TIMEOUT in parameters else math.inf
    return JobOptions(
        started_at=started_at,
        wait_until=started_at + min(most_s, within_s, asked_s),
        polled=polled,
        traceparent=tracing.well_formed(trace) if trace else None,
        span=tracing.CURRENT.get(),
        request_id=request_ids.CURRENT.get(),
        scores=scores,
        callback_url=callback_url,
        lane=access.lane(key, parameters.get(PRIORITY, "")) if has_lane else "",
    )


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
    request_id = UNSET if success else request_ids.CURRENT.get()
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
        body = errors.body(result.code, result.message, request_ids.CURRENT.get())
        return body, errors.STATUS.get(result.code, 500)
    expires_at: datetime | UnsetType = UNSET
    if isinstance(result, StoredJob):
        expires_at = responses.time_of(result.expires_at)
        result = result.result
    answer = answers.of(result, request_id=request_ids.CURRENT.get(), expires_at=expires_at)
    return answer, 200 if isinstance(answer, Answer) else errors.STATUS.get(answer.error.code, 500)


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
    if isinstance(client, AnswerSocket) and not client.has_input:
        return False  # each request that waits asks four times a second: that costs no system call
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
