"""The Flask app factory. Owns how the parts of the web tier are put together; starts nothing.

wsgi.py is the entry point: it reads the settings and starts the subscription.
"""

from flask import Flask

from settings import Settings
from telemetry import tracing
from web import access_log, errors, start
from web.dialects import failures, tf_serving, torchserve, tutorials
from web.dialects.open_inference import routes as open_inference
from web.errors import KeyNameOf
from web.history import Sampler
from web.jobs import JobClient
from web.keys import http_guard
from web.keys.guard import Guard
from web.middleware import (
    access_lines,
    cache_sources,
    compression,
    cors,
    request_lifecycle,
    traces,
)
from web.polled_pipelines import PolledPipelines
from web.routes import (
    api_docs,
    health,
    history,
    job_events,
    key_jobs,
    metrics,
    pages,
    predict,
    predictions,
    similarity,
    static,
)
from web.server import capacity
from web.server.refusals import RenderRefusal
from web.webhooks.callback_hosts import CallbackHosts
from web.webhooks.deliverer import Deliverer
from web.webhooks.signing import Signer


def create_app(settings: Settings) -> Flask:
    """The app over the Redis of `settings`. Connects to nothing before the first request."""
    app = Flask("web", static_folder=None, template_folder="pages/templates")
    # Two slashes would be redirected, in HTML, to an address that the Host field names.
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_mb * start.MB
    app.config["FILES_DIR"] = settings.files_dir
    app.extensions["jobs"] = jobs = start.job_client(settings)
    app.extensions["polled_pipelines"] = polled = PolledPipelines(
        jobs, at_once=capacity.of(settings.web_workers, settings.web_threads).requests
    )
    app.extensions["inference"] = start.inference(jobs, polled)
    app.extensions["history"] = Sampler(jobs)
    app.extensions["callback_hosts"] = hosts = CallbackHosts(settings.webhook_hosts)
    if hosts:
        app.extensions["deliverer"] = Deliverer(
            jobs.producer.webhooks,
            hosts,
            Signer(settings.webhook_secret),
            result_ttl_s=settings.result_ttl_s,
        )
    _add_middleware(app, settings)
    for part in (
        predict,
        predictions,
        job_events,
        similarity,
        health,
        history,
        metrics,
        pages,
        api_docs,
        static,
    ):
        app.register_blueprint(part.blueprint)
    if jobs.api_keys is not None:
        app.register_blueprint(key_jobs.blueprint)
    for dialect in (tutorials, open_inference, tf_serving, torchserve):
        app.register_blueprint(dialect.blueprint)
    return app


def _add_middleware(app: Flask, settings: Settings) -> None:
    """What happens to every request and answer; the order is that in which a request meets it."""
    jobs: JobClient = app.extensions["jobs"]
    request_lifecycle.register(app)
    if access_log.is_on():
        access_lines.register(app)
    if tracing.is_on():
        traces.register(app)
    errors.register(app, shape_of=failures.shape_of, unknown_address=failures.unknown_address)
    cors.register(app, settings.cors_origins, more=_more_origins(settings))
    compression.register(app)
    if jobs.api_keys is not None:
        http_guard.register(app, Guard(jobs.api_keys.known))
    if jobs.cache is not None:
        cache_sources.register(app)


def refusal_renderer(settings: Settings, *, key_name_of: KeyNameOf = lambda _head: "") -> RenderRefusal:
    """How refusals of requests that never reach the app are rendered: as the app renders its own."""
    return errors.refusal_renderer(
        settings.cors_origins,
        more=_more_origins(settings),
        shape_of=failures.shape_of,
        key_name_of=key_name_of,
    )


def _more_origins(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {"/infer": settings.infer_cors_origins}
