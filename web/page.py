"""The page at `/`: an upload form that needs no script.

Owns the page and the headers that keep it harmless.
"""

from flask import Blueprint, Response, current_app, make_response, render_template

from broker.errors import BrokerUnavailable
from broker.messages import WorkerState
from web.frontend import Frontend

blueprint = Blueprint("page", __name__)


@blueprint.get("/")
def index() -> Response:
    """The form, with each model and its state; without Redis it says so."""
    frontend: Frontend = current_app.extensions["frontend"]
    problem = ""
    try:
        views = list(frontend.registry.models().values())
    except BrokerUnavailable as error:
        views, problem = [], error.message
    ready = [view.card.model for view in views if view.state is WorkerState.READY]
    default, answering = frontend.models.default, frontend.models.answering()
    chosen = answering if answering in ready else next(iter(ready), default)
    fallback = answering if answering != default else ""
    page = render_template(
        "index.html", views=views, chosen=chosen, problem=problem, default=default, fallback=fallback
    )
    response = make_response(page)
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["Cache-Control"] = "no-store"
    return response
