"""`/predictions/<uuid>/events`: the states of a job that is polled, as Server-Sent Events.

Owns the stream: which event follows which, and when it ends. A stream has a place among the requests in
flight and ends after REQUEST_TIMEOUT_S, so that a process that stops waits for it no longer than for another
request; an EventSource connects again by itself.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec
from flask import Blueprint, Response, current_app, request
from msgspec import Struct

from broker.errors import BrokerUnavailable, ServiceError
from broker.producer import PendingJob, StoredJob
from web import answers, errors, responses
from web.jobs import ClientGone, JobClient
from web.keys import access
from web.middleware import request_ids
from web.responses import PendingAnswer
from web.routes import predict, predictions

blueprint = Blueprint("job_events", __name__)

MIMETYPE: Final = "text/event-stream"

HEARTBEAT_S: Final = 5.0
"""Proxies close a connection that is silent for a minute, some sooner."""

_RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds until an EventSource connects again."""

_HEARTBEAT: Final = b": the job is pending\n\n"


@blueprint.get("/predictions/<job_id>/events")
def events(job_id: str) -> Response:
    """The job's states as they come: pending; then done, failed or gone, and the end."""
    jobs: JobClient = current_app.extensions["jobs"]
    model, stored = predictions.looked_up(jobs, job_id, owner=(owner := access.owner()))
    with contextlib.ExitStack() as places:
        if request.method == "HEAD":
            response = Response(iter(()), mimetype=MIMETYPE)
        elif isinstance(stored.state, PendingJob):
            places.enter_context(jobs.places.slot())
            places.enter_context(jobs.places.share(model))
            # It is made when the request's context is gone: what it needs of that is read here.
            pending = predict.pending(model, job_id, expires_at=stored.expires_at)
            is_client_gone = partial(predict.has_client_gone, request.environ, has_begun=True)
            stream = _stream(jobs, pending, is_client_gone, request_ids.CURRENT.get(), owner=owner)
            response = Response(stream, mimetype=MIMETYPE)
        else:
            response = Response(_RETRY + _last(stored, request_ids.CURRENT.get()), mimetype=MIMETYPE)
        response.call_on_close(places.pop_all().close)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events until it has 4 KB of them
    return response


def _stream(
    jobs: JobClient,
    pending: PendingAnswer,
    is_client_gone: Callable[[], bool],
    request_id: str,
    *,
    owner: str = "",
) -> Iterator[bytes]:
    until = jobs.longest_wait_until(math.inf)
    yield _RETRY + _event("pending", pending)
    while (now := time.monotonic()) < until:
        beat_at = min(until, now + HEARTBEAT_S)
        try:
            stored = jobs.follow(
                *(pending.model, pending.id), until=beat_at, is_client_gone=is_client_gone, owner=owner
            )
        except (ClientGone, BrokerUnavailable):
            return  # nobody reads on; or the client that connects again is told
        except ServiceError as error:
            yield _event("failed", errors.body(error.code, error.message, request_id))
            return
        if stored is None:
            yield _gone(jobs, pending, request_id, owner=owner)
            return
        if not isinstance(stored.state, PendingJob):
            yield _last(stored, request_id)
            return
        yield _HEARTBEAT


def _gone(jobs: JobClient, pending: PendingAnswer, request_id: str, *, owner: str) -> bytes:
    """The event that ends the stream of a job that is no more."""
    why: ServiceError | None = None
    with contextlib.suppress(BrokerUnavailable):
        why = jobs.why_gone(pending.model, pending.id, owner=owner)
    why = why or errors.NotFound("The job was cancelled, or its result has expired.")
    return _event("gone", errors.body(why.code, why.message, request_id))


def _last(stored: StoredJob, request_id: str) -> bytes:
    """The event that ends the stream of a job that has ended."""
    expires_at = responses.time_of(stored.expires_at)
    body = answers.of(stored.result, request_id=request_id, expires_at=expires_at)
    return _event("done" if body.success else "failed", body)


def _event(name: str, body: Struct) -> bytes:
    """An event whose data is one line of JSON."""
    return b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), msgspec.json.encode(body))
