"""The pages for people: `/` to try a model, `/status` to watch the service.

Owns which page is shown, in which language, and its security headers. The scripts in static/ own what happens
in a page; without scripts `/` is a plain form.
"""

from typing import Any, Final

from flask import Blueprint, Response, current_app, make_response, render_template, request, url_for

from broker.errors import BrokerUnavailable
from broker.messages import Fit, WorkerState
from broker.registry import ModelView
from web.jobs import JobClient
from web.pages import languages, reasons

blueprint = Blueprint("page", __name__)

_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    # No text can become markup: a browser that knows this refuses innerHTML.
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}


def policy(**changes: str | None) -> str:
    """The Content-Security-Policy of a page, with that page's `changes`; None removes a directive."""
    return "; ".join(f"{name} {value}" for name, value in {**_POLICY, **changes}.items() if value)


HEADERS: Final = {
    "Content-Security-Policy": policy(),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@blueprint.get("/")
def index() -> Response:
    """The page, with the models as they are now; if Redis is away it says so."""
    jobs: JobClient = current_app.extensions["jobs"]
    problem = ""
    try:
        views = jobs.models.shown(jobs.registry.models())
    except BrokerUnavailable as error:
        views, problem = [], error.message
    models = jobs.models
    answering = models.answering() if views else models.default
    fallback = answering if answering != models.default else ""
    chosen = _first_choice(views, answering)
    return shown(
        "index.html",
        views=views,
        chosen=chosen,
        problem=problem,
        default=models.default,
        fallback=fallback,
        has_reader=any(
            view.card.input.fit is Fit.INK and (view.state is not None or models.expects(view.card.model))
            for view in views
        ),
    )


@blueprint.get("/status")
def status() -> Response:
    """The frame of the status page, which its script fills from /models."""
    return shown("status.html")


def _first_choice(views: list[ModelView], answering: str) -> str:
    """The model that is selected at first: the one that answers by default, else the first that is ready."""
    ready = [view.card.model for view in views if view.state is WorkerState.READY]
    return answering if answering in ready else next(iter(ready), answering)


def shown(template: str, **values: Any) -> Response:  # noqa: ANN401 - what the template shows
    """Render a page in the language of the request, with its headers."""
    jobs: JobClient = current_app.extensions["jobs"]
    language, lang = languages.of(request), languages.chosen(request) or None
    page = render_template(
        template,
        language=language,
        languages=languages.NAMES,
        say=languages.speaker(language),
        # Links keep a language that was chosen.
        link=lambda endpoint: url_for(endpoint, lang=lang),
        shorten=reasons.shorten,
        has_keys=jobs.api_keys is not None,
        max_bytes=current_app.config["MAX_CONTENT_LENGTH"],
        **values,
    )
    response = make_response(page)
    response.headers.update(HEADERS)
    response.headers["Content-Language"] = language
    response.vary.add("Accept-Language")
    return response
