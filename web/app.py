"""The Flask app factory. Owns how the parts of the web tier are put together; starts nothing.

wsgi.py is the entry point: it reads the settings and starts the subscription.
"""

import uuid

from flask import Flask, Response

from broker.clock import RedisClock
from broker.connection import connect
from broker.keys import Keys
from broker.outage import Outage
from broker.producer import Limits, Producer
from broker.registry import Registry
from broker.replies import Replies
from broker.result_cache import ResultCache
from settings import Settings
from web import errors
from web.cached_inference import CachedInference
from web.dialects import failures, tf_serving, torchserve, tutorials
from web.dialects.open_inference import routes as open_inference
from web.inference import Inference
from web.jobs import JobClient, JobLimits
from web.middleware import cache_sources, compression, cors, request_counts, request_ids
from web.model_choice import ModelNames
from web.polled_pipelines import PolledPipelines
from web.routes import (
    api_docs,
    health,
    job_events,
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

_MB = 1024 * 1024

_CACHE_SHARE = 4
"""The response cache may have a quarter of what a model's queue may have, in addition to it."""

REDIS_TIMEOUT_S = 0.9
"""A client hears within 1 to 2 s that Redis is away; on a sound link a reply takes a few milliseconds."""


def create_app(settings: Settings) -> Flask:
    """The app over the Redis of `settings`. Connects to nothing before the first request."""
    app = Flask("web", static_folder=None, template_folder="pages/templates")
    # Two slashes would be redirected, in HTML, to an address that the Host field names.
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = settings.max_upload_mb * _MB
    app.config["FILES_DIR"] = settings.files_dir
    app.extensions["jobs"] = jobs = job_client(settings)
    app.extensions["polled_pipelines"] = polled = PolledPipelines(
        jobs, at_once=capacity.of(settings.web_workers, settings.web_threads).requests
    )
    app.extensions["inference"] = _inference(jobs, polled)
    app.extensions["callback_hosts"] = hosts = CallbackHosts(settings.webhook_hosts)
    if hosts:
        app.extensions["deliverer"] = Deliverer(
            jobs.producer.webhooks,
            hosts,
            Signer(settings.webhook_secret),
            result_ttl_s=settings.result_ttl_s,
        )
    request_ids.register(app)
    errors.register(app, shape_of=failures.shape_of)
    cors.register(app, settings.cors_origins, more=_more_origins(settings))
    compression.register(app)
    request_counts.register(app)
    if jobs.cache is not None:
        cache_sources.register(app)
    for part in (
        predict,
        predictions,
        job_events,
        similarity,
        health,
        metrics,
        pages,
        api_docs,
        static,
    ):
        app.register_blueprint(part.blueprint)
    for dialect in (tutorials, open_inference, tf_serving, torchserve):
        app.register_blueprint(dialect.blueprint)

    @app.after_request
    def of_its_type(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        if response.is_sequence and not response.calculate_content_length():
            del response.headers["Content-Type"]  # there is nothing to be of a type: OPTIONS
        return response

    return app


def refusal_renderer(settings: Settings) -> RenderRefusal:
    """How refusals of requests that never reach the app are rendered: as the app renders its own."""
    return errors.refusal_renderer(
        settings.cors_origins, more=_more_origins(settings), shape_of=failures.shape_of
    )


def _more_origins(settings: Settings) -> dict[str, tuple[str, ...]]:
    return {"/infer": settings.infer_cors_origins}


def _inference(jobs: JobClient, polled_pipelines: PolledPipelines) -> Inference:
    if jobs.cache is None:
        return Inference(jobs, polled_pipelines)
    return CachedInference(jobs, polled_pipelines, jobs.cache, say=cache_sources.note)


def job_client(settings: Settings) -> JobClient:
    """The queue's client of this process, with a channel of its own for replies."""
    keys = Keys(settings.key_prefix)
    clock = RedisClock()
    client = connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
    most_bytes = settings.queue_limit_mb * _MB // _CACHE_SHARE
    limits = Limits(
        queue_jobs=settings.queue_limit,
        queue_bytes=settings.queue_limit_mb * _MB,
        result_ttl_s=settings.result_ttl_s,
        key_ttl_s=settings.key_ttl_s,
    )
    return JobClient(
        Registry(client, keys, clock),
        Producer(client, keys, limits, clock=clock, refusals=Outage("Such requests get 503")),
        Replies(client, keys, str(uuid.uuid4())),
        clock,
        names=ModelNames(settings.served, settings.default_model, settings.fallback_model),
        limits=JobLimits(
            max_pixels=settings.max_pixels,
            request_timeout_s=settings.request_timeout_s,
            async_timeout_s=settings.async_timeout_s,
            requests=capacity.of(settings.web_workers, settings.web_threads).requests,
        ),
        cache=ResultCache(client, keys, ttl_s=settings.result_cache_s, most_bytes=most_bytes)
        if settings.result_cache_s
        else None,
    )
