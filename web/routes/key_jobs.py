"""`GET /jobs`: the polled jobs of the API key that asks.

Owns the list and its pages. The app has this address while it asks for keys: without them nobody's jobs could
be told from others'. What becomes of one job is predictions.py's.
"""

from typing import Final

import msgspec
from flask import Blueprint, Response, current_app, request, url_for
from msgspec import UNSET

from broker.errors import ClientError
from broker.key_limits import ListedJob
from web import responses
from web.jobs import JobClient
from web.keys import access
from web.responses import JobList, JobSummary
from web.uploads.parameters import MAX_LISTED, JobsQuery

blueprint = Blueprint("key_jobs", __name__)

_LISTED: Final = 50


@blueprint.get("/jobs")
def jobs() -> Response:
    """The key's jobs that are pending or whose results are kept, the newest first."""
    client: JobClient = current_app.extensions["jobs"]
    if client.api_keys is None:
        raise TypeError("there are no keys to list jobs of. This is a bug")
    try:
        given = {name: text for name, text in request.args.items() if text and name in ("before", "limit")}
        query = msgspec.convert(given, JobsQuery, strict=False)
    except msgspec.ValidationError:
        raise ClientError(
            f"before must be a time as `next` has it, and limit a whole number from 1 to {MAX_LISTED}."
        ) from None
    most = _LISTED if query.limit is UNSET else query.limit
    before = None if query.before is UNSET else query.before
    found = client.api_keys.limiter.listed(access.owner(), before=before, most=most + 1)
    shown, more = found[:most], found[most:]
    return responses.respond(
        JobList(
            jobs=[_summary(client, job) for job in shown],
            next=url_for("key_jobs.jobs", before=repr(shown[-1].accepted_at), limit=most) if more else None,
        )
    )


def _summary(client: JobClient, job: ListedJob) -> JobSummary:
    now = client.registry.now(job.model)
    is_pending = job.deadline is not None and job.deadline > now
    expires_at = now + job.left_s
    if job.deadline is not None:
        expires_at = job.deadline + client.producer.result_ttl_s
    return JobSummary(
        id=job.job_id,
        model=job.model,
        status="pending" if is_pending else "ended",
        location=url_for("predictions.prediction", job_id=job.job_id, model=job.model),
        accepted_at=responses.time_of(job.accepted_at),
        expires_at=responses.time_of(expires_at),
    )
