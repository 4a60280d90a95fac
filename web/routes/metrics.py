"""`/metrics`: the numbers of the web tier and the queues, for Prometheus; `/scaling`: those for autoscalers.

Owns the addresses, and how the queues of several models are one number. What is counted is web/metrics.py's.
"""

from typing import Final

from flask import Blueprint, Response, current_app, request

from web import metrics, responses
from web.jobs import JobClient
from web.responses import Scaling

_ASKED_S: Final = 60.0
"""For so long a model counts as asked: autoscalers look less often than a fast model empties its queue."""

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
    """What the model servers of all models, or of `?models=A,B`, have to do.

    Any web process answers for all, and for gRPC: the numbers are Redis'.
    """
    jobs: JobClient = current_app.extensions["jobs"]
    known = jobs.registry.models(fresh=True)
    named = [name for name in request.args.get("models", "").split(",") if name]
    for name in named:
        jobs.models.require(name)
    depths = jobs.producer.depths(
        named or filter(jobs.models.permits, sorted({*known, *jobs.models.expected}))
    ).values()
    return responses.respond(
        Scaling(
            jobs=sum(depth.waiting + depth.polled for depth in depths),
            oldest_job_s=round(max((depth.oldest_s for depth in depths), default=0.0), 3),
            asked=int(any(depth.asked_s < _ASKED_S for depth in depths)),
        )
    )
