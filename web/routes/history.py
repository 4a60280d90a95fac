"""`/status/history`: the last hour, as the plots of the status page show it.

Owns that answer. What is sampled is web/history.py's.
"""

import msgspec
from flask import Blueprint, Response, current_app

from broker.history import SAMPLE_S, Sample
from web import responses
from web.jobs import JobClient
from web.keys import access
from web.responses import LastHour

blueprint = Blueprint("history", __name__)


@blueprint.get("/status/history")
def history() -> Response:
    """The samples of the last hour, the oldest first."""
    jobs: JobClient = current_app.extensions["jobs"]
    samples = [_shown(sample) for sample in jobs.producer.history.samples()]
    return responses.respond(
        LastHour(time=round(jobs.registry.now(), 3), interval_s=SAMPLE_S, samples=samples)
    )


def _shown(sample: Sample) -> Sample:
    """Without the models that the request's API key may not see."""
    models = {name: model for name, model in sample.models.items() if access.may_ask(name)}
    return sample if len(models) == len(sample.models) else msgspec.structs.replace(sample, models=models)
