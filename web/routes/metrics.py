"""`/metrics`: the numbers of the web tier and of the queues, for Prometheus.

Owns the address. What is counted is web/metrics.py's.
"""

from flask import Blueprint, Response, current_app, request

from web import metrics
from web.jobs import JobClient

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def exposed() -> Response:
    """All of them, of all processes, in Prometheus' text format or in OpenMetrics'."""
    jobs: JobClient = current_app.extensions["jobs"]
    queues = metrics.QueueCollector(jobs.registry, jobs.producer)
    body, content_type = metrics.exposition(request.headers.get("Accept", ""), queues)
    return Response(body, content_type=content_type)
