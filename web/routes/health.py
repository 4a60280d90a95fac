"""Health checks for operators and load balancers: liveness, readiness, and the models.

Owns the three answers. Liveness depends on nothing else, so that load or a lost Redis never gets a healthy
process restarted.
"""

from dataclasses import fields

from flask import Blueprint, Response, current_app, request
from msgspec import UNSET

from broker.messages import Card, State
from broker.registry import ModelView
from web import responses
from web.jobs import JobClient
from web.responses import Liveness, ModelList, ModelSummary, Readiness, WorkerSummary

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@blueprint.get("/livez", endpoint="livez")  # as Kubernetes calls its own
def healthz() -> Response:
    """Say that this process answers."""
    return responses.respond(Liveness())


@blueprint.get("/readyz")
def readyz() -> Response:
    """Say whether Redis accepts writes and a live worker serves some model (or that of `?model=NAME`).

    With SCALE_TO_ZERO: whether Redis accepts writes, and that model has not failed.
    """
    jobs: JobClient = current_app.extensions["jobs"]
    views = jobs.registry.models(fresh=True)
    jobs.producer.check_writable()
    model = request.args.get("model")
    if model:
        jobs.models.require(model)
    named = [view for name, view in views.items() if name == model]
    relevant = named if model else jobs.models.shown(views)
    states = {view.card.model: view.state.value if view.state else "no worker" for view in relevant}
    # Scaled to zero, a model is asked while nobody serves it: only one that failed can't be.
    can_be_asked = any(map(jobs.models.can_be_asked, relevant))
    ready = can_be_asked or (jobs.models.scales_to_zero and not named)
    reasons = [views[name].reason for name in states if views[name].reason]
    reason = "" if ready else " ".join(reasons) or "no live worker serves " + (model or "any model")
    return responses.respond(
        Readiness(ready=ready, models=states, reason=reason or UNSET), 200 if ready else 503
    )


@blueprint.get("/models")
def models() -> Response:
    """List every model that is served, expected or was served a moment ago: card, state, workers, queue."""
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
        **{field.name: getattr(view.card, field.name) for field in fields(Card)},
        state=view.state.value if view.state else "no worker",
        reason=view.reason,
        workers=[_worker(worker, state) for worker, state in sorted(view.states.items())],
        queue_length=view.queue_length,
        expected=jobs.models.expects(view.card.model),
    )


def _worker(worker: str, state: State) -> WorkerSummary:
    # Without the card: it is the model's card, or will be once this version serves.
    values = {field.name: getattr(state, field.name) for field in fields(State) if field.name != "card"}
    return WorkerSummary(id=worker, **values)
