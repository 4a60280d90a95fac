"""`/metrics`: the numbers of the web tier and the queues, for Prometheus; `/scaling`: those for autoscalers.

Owns the addresses, and how the queues of several models are one number. What is counted is web/metrics.py's.
"""

import re
from typing import Final

from flask import Blueprint, Response, current_app, request

from broker.errors import ClientError
from web import metrics, responses
from web.jobs import JobClient
from web.keys import access
from web.responses import Scaling

_WHOLE: Final = re.compile("[0-9]{1,6}")
_MOST_WINDOW_S: Final = 86_400
_WINDOW_S: Final = 60
"""Autoscalers look less often than a fast model server empties its queue."""

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def exposed() -> Response:
    """All of them, of all processes, in Prometheus' text format or in OpenMetrics'."""
    jobs: JobClient = current_app.extensions["jobs"]
    queues = metrics.QueueCollector(jobs.registry, jobs.producer)
    body, content_type = metrics.exposition(request.headers.get("Accept", ""), queues)
    return Response(body, content_type=content_type)


@blueprint.get("/scaling")
def scaling() -> Response:
    """What the model servers of all models, or of `?models=A,B`, have to do; asked within `?window=SECONDS`.

    Any web process answers for all, and for gRPC: the numbers are Redis'. Raises ClientError.
    """
    jobs: JobClient = current_app.extensions["jobs"]
    known = jobs.registry.models(fresh=True)
    named = [name for name in request.args.get("models", "").split(",") if name]
    for name in named:
        jobs.models.require(name)
    windows = request.args.getlist("window")
    window = windows[0] if any(windows) else str(_WINDOW_S)
    if len(windows) > 1 or not _WHOLE.fullmatch(window) or not 1 <= int(window) <= _MOST_WINDOW_S:
        raise ClientError(f"window must be one whole number of seconds from 1 to {_MOST_WINDOW_S}.")
    depths = jobs.producer.depths.of(
        named or filter(access.may_ask, sorted({*known, *jobs.models.expected}))
    ).values()
    return responses.respond(
        Scaling(
            jobs=sum(depth.waiting + depth.polled for depth in depths),
            oldest_job_s=round(max((depth.oldest_s for depth in depths), default=0.0), 3),
            asked=int(any(depth.asked_s < int(window) for depth in depths)),
        )
    )
