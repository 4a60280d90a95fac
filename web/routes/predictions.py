"""`/predictions/<uuid>`: what becomes of a job that is polled.

Owns its addresses: the result, once or after a wait, and the end of a job that nobody wants. Submits nothing;
predict.py does.
"""

import uuid

import msgspec
from flask import Blueprint, Response, current_app, request

from broker.errors import ClientError
from broker.keys import MODEL_NAME
from broker.producer import PendingJob, StoredJob
from web import responses
from web.errors import NotFound
from web.jobs import JobClient
from web.keys import access
from web.routes import predict
from web.uploads import preferences
from web.uploads.parameters import MAX_WAIT_S, Wait

blueprint = Blueprint("predictions", __name__)


@blueprint.get("/predictions/<job_id>")
def prediction(job_id: str) -> Response:
    """The result of a job that was submitted with `Prefer: respond-async`, at once or when it is there."""
    jobs: JobClient = current_app.extensions["jobs"]
    wait_s = _wait_s()
    owner = access.owner()
    model, stored = looked_up(jobs, job_id, owner=owner)
    if isinstance(stored.state, PendingJob) and wait_s:
        until = jobs.longest_wait_until(wait_s)
        with jobs.places.slot(), jobs.places.share(model):
            is_gone = predict.is_client_gone
            awaited = jobs.follow(model, job_id, until=until, is_client_gone=is_gone, owner=owner)
        if awaited is None:
            raise not_found(jobs, model, job_id, owner=owner)
        stored = awaited
    response = _shown(model, job_id, stored)
    if preferences.wait(request) == wait_s and wait_s:
        response.headers["Preference-Applied"] = preferences.applied(wait_s=wait_s)
    return response


@blueprint.delete("/predictions/<job_id>")
def cancel(job_id: str) -> Response:
    """Cancel the job: it is not run if no batch has it yet. Its result is dropped if it is there."""
    jobs: JobClient = current_app.extensions["jobs"]
    model, owner = _model(jobs), access.owner()
    if not (_can_be(model, job_id) and jobs.delete(model, job_id, owner=owner)):
        raise not_found(jobs, model, job_id, owner=owner)
    return Response(status=204)


def looked_up(jobs: JobClient, job_id: str, *, owner: str = "") -> tuple[str, StoredJob]:
    """The model that the request names, and what is stored of its job. Raises NotFound, UnknownModel."""
    model = _model(jobs)
    stored = jobs.poll(model, job_id, owner=owner) if _can_be(model, job_id) else None
    if stored is None:
        raise not_found(jobs, model, job_id, owner=owner)
    return model, stored


def _model(jobs: JobClient) -> str:
    return request.args.get("model") or jobs.models.default


def _wait_s() -> int:
    """How long to wait: the query says so, else the header. Raises ClientError."""
    text = request.args.get("wait")
    if not text:
        return preferences.wait(request) or 0
    try:
        return msgspec.convert(text, Wait, strict=False)
    except msgspec.ValidationError:
        raise ClientError(
            f"wait={text[:20]!r} is not a whole number of seconds from 0 to {MAX_WAIT_S}."
        ) from None


def _can_be(model: str, job_id: str) -> bool:
    """Whether a job may have this address."""
    try:
        return str(uuid.UUID(job_id)) == job_id and MODEL_NAME.fullmatch(model) is not None
    except ValueError:
        return False


def not_found(jobs: JobClient, model: str, job_id: str, *, owner: str = "") -> ClientError:
    """The refusal: the job was lost or has expired, or it is not known. Raises UnknownModel, if that is why.

    Call it after the look-up: a model that another process has just enqueued for may be news to this one.
    """
    # First: a Redis that lost the job may have lost the model, too.
    if _can_be(model, job_id) and (why := jobs.why_gone(model, job_id, owner=owner)):
        return why
    jobs.models.require(model)
    return NotFound(
        f"{model!r} has no prediction with this id (any more). If another model has it, name that one: "
        "?model=NAME."
    )


def _shown(model: str, job_id: str, stored: StoredJob) -> Response:
    if not isinstance(stored.state, PendingJob):
        return predict.one(stored)
    response = responses.respond(predict.pending(model, job_id, expires_at=stored.expires_at), 202)
    response.headers["Retry-After"] = "1"
    return response
