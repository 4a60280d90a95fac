"""`/status/history`: the last hour, as the plots of the status page show it.

Owns that answer. What is sampled is web/history.py's.
"""

from flask import Blueprint, Response, current_app

from broker.history import SAMPLE_S
from web import responses
from web.jobs import JobClient
from web.responses import LastHour

blueprint = Blueprint("history", __name__)


@blueprint.get("/status/history")
def history() -> Response:
    """The samples of the last hour, the oldest first."""
    jobs: JobClient = current_app.extensions["jobs"]
    samples = jobs.producer.history.samples()
    return responses.respond(
        LastHour(time=round(jobs.registry.now(), 3), interval_s=SAMPLE_S, samples=samples)
    )
