"""What operators and load balancers ask: alive, ready, which models.

Owns the three answers. Liveness asks nobody, so that load or a lost Redis never restarts a sound process.
"""

from dataclasses import fields

from flask import Blueprint, Response, current_app, request
from msgspec import UNSET

from broker.errors import BrokerUnavailable
from broker.messages import Card, State, WorkerState
from broker.registry import ModelView
from web import responses
from web.errors import respond
from web.jobs import JobClient
from web.responses import Liveness, ModelList, ModelSummary, Readiness, WorkerSummary

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """This process answers."""
    return responses.respond(Liveness())


@blueprint.get("/readyz")
def readyz() -> Response:
    """Redis answers and takes writes, and a live worker serves some model (or the one of `?model=NAME`)."""
    jobs: JobClient = current_app.extensions["jobs"]
    try:
        views = jobs.registry.models(fresh=True)
        jobs.producer.check_writable()
    except BrokerUnavailable as error:
        return respond(error)
    wanted = request.args.get("model")
    if wanted:
        jobs.models.require(wanted)
    asked = [view for name, view in views.items() if name == wanted]
    there = asked if wanted else jobs.models.shown(views)
    states = {view.card.model: view.state.value if view.state else "no worker" for view in there}
    ready = WorkerState.READY in states.values()
    reasons = [views[name].reason for name in states if views[name].reason]
    reason = "" if ready else " ".join(reasons) or "no live worker serves " + (wanted or "any model")
    return responses.respond(
        Readiness(ready=ready, models=states, reason=reason or UNSET), 200 if ready else 503
    )


@blueprint.get("/models")
def models() -> Response:
    """Every model that is served, expected or was served a moment ago: card, state, workers, queue."""
    jobs: JobClient = current_app.extensions["jobs"]
    views = jobs.models.shown(jobs.registry.models(fresh=True))
    return responses.respond(
        ModelList(
            default_model=jobs.models.default,
            fallback_model=jobs.models.fallback or None,
            default_answered_by=jobs.models.answering(),
            time=round(jobs.registry.now(), 3),
            models=[_shown(view, jobs) for view in views],
        )
    )


def _shown(view: ModelView, jobs: JobClient) -> ModelSummary:
    return ModelSummary(
        **{each.name: getattr(view.card, each.name) for each in fields(Card)},
        state=view.state.value if view.state else "no worker",
        reason=view.reason,
        workers=[_worker(worker, state) for worker, state in sorted(view.states.items())],
        queue_length=view.queue_length,
        expected=jobs.models.expects(view.card.model),
    )


def _worker(worker: str, state: State) -> WorkerSummary:
    # Without its card: that is the model's own, or waits to become it.
    shown = {each.name: getattr(state, each.name) for each in fields(State) if each.name != "card"}
    return WorkerSummary(id=worker, **shown)
