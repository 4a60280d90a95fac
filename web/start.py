"""What every process of the web tier has to do before it serves, whatever protocol it speaks.

Owns its log's form, its memory's, and how its client of the queue is put together. Starts nothing.
"""

import logging
import uuid
from typing import Final

from broker.api_keys import KnownKeys
from broker.clock import clock_of
from broker.connection import connect
from broker.key_limits import KeyLimitStore
from broker.keys import Keys
from broker.outage import Outage
from broker.producer import Limits, Producer
from broker.registry import Registry
from broker.replies import Replies
from broker.result_cache import ResultCache
from broker.shards import ShardMap
from settings import Settings
from telemetry import logs, tracing
from web import access_log
from web.cached_inference import CachedInference
from web.inference import Inference
from web.jobs import JobClient, JobLimits
from web.keys.limits import ApiKeys, KeyLimiter
from web.middleware import cache_sources, request_ids
from web.model_choice import ModelNames
from web.polled_pipelines import PolledPipelines
from web.server import capacity, malloc

MB: Final = 1024 * 1024

_CACHE_SHARE: Final = 4
"""The response cache may have a quarter of what a model's queue may have, in addition to it."""

REDIS_TIMEOUT_S = 0.9
"""A client hears within 1 to 2 s that Redis is away; on a sound link a reply takes a few milliseconds."""


def prepare(settings: Settings, service: str) -> None:
    """Set up this process' log, its memory, and its traces, where `service` is its name."""
    malloc.give_back_large_blocks()
    logs.set_up(settings.log_level, settings.log_format, request_ids.LOG_FORMAT, request_ids.Stamp())
    access_log.set_up(is_on=settings.access_log == "on")
    if settings.otel_exporter_otlp_endpoint:
        tracing.start(service)
    # At debug Pillow tells what is in a photo: who took it, where, and with what.
    logging.getLogger("PIL").setLevel(max(logging.INFO, logging.getLogger().level))


def job_client(settings: Settings) -> JobClient:
    """The queue's client of this process, with a channel of its own for replies."""
    keys = Keys(settings.key_prefix)
    client = connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
    clock = clock_of(client)
    tracing.follow(clock.now)
    most_bytes = settings.queue_limit_mb * MB // _CACHE_SHARE
    limits = Limits(
        queue_jobs=settings.queue_limit,
        queue_bytes=settings.queue_limit_mb * MB,
        result_ttl_s=settings.result_ttl_s,
        key_ttl_s=settings.key_ttl_s,
        replicas=settings.redis_replicas,
    )
    refusals, shards = Outage("Such requests get 503"), ShardMap()
    producer = Producer(client, keys, limits, clock=clock, refusals=refusals, shards=shards)
    return JobClient(
        Registry(client, keys, clock, refusals=refusals, shards=shards),
        producer,
        Replies(client, keys, str(uuid.uuid4())),
        clock,
        names=ModelNames(
            settings.served,
            settings.default_model,
            settings.fallback_model,
            scales_to_zero=settings.scale_to_zero == "on",
        ),
        limits=JobLimits(
            max_pixels=settings.max_pixels,
            request_timeout_s=settings.request_timeout_s,
            async_timeout_s=settings.async_timeout_s,
            requests=capacity.of(settings.web_workers, settings.web_threads).requests,
        ),
        cache=ResultCache(client, keys, ttl_s=settings.result_cache_s, most_bytes=most_bytes)
        if settings.result_cache_s
        else None,
        api_keys=ApiKeys(
            KnownKeys(client, keys, clock),
            KeyLimiter(
                KeyLimitStore(client, keys, key_ttl_s=settings.key_ttl_s),
                producer.ids,
                request_timeout_s=settings.request_timeout_s,
                async_timeout_s=settings.async_timeout_s,
            ),
        )
        if settings.api_keys == "required"
        else None,
    )


def inference(jobs: JobClient, polled_pipelines: PolledPipelines) -> Inference:
    """What asks models, with the response cache where the settings want one."""
    if jobs.cache is None:
        return Inference(jobs, polled_pipelines)
    return CachedInference(jobs, polled_pipelines, jobs.cache, say=cache_sources.note)
