"""What the web tier counts and measures for Prometheus, and the numbers of Redis that are read when it asks.

Owns the names, the labels and the buckets. A label's values are bounded: routes and codes are the app's,
models those that are announced. A model server's are model_server/serving/metrics.py's.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from broker.errors import BrokerUnavailable
from broker.messages import WorkerState
from broker.metrics import SECONDS
from broker.producer import Producer
from broker.registry import Registry
from web import metrics_files, metrics_folder, question

metrics_files.install()

REQUESTS: Final = Counter(
    "batchwire_http_requests",
    "Requests answered by the app, by the model that was asked (empty: none was).",
    ["route", "dialect", "model", "code"],
)
DURATION: Final = Histogram(
    "batchwire_http_request_duration_seconds",
    "From a whole request to its answer.",
    ["route", "dialect"],
    buckets=SECONDS,
)
_CALLS: Final = Counter(
    "batchwire_grpc_calls",
    "Calls of gRPC answered, by the model that was asked (empty: none was).",
    ["method", "model", "code"],
)
_CALL_DURATION: Final = Histogram(
    "batchwire_grpc_call_duration_seconds",
    "From a call's first byte to its status.",
    ["method"],
    buckets=SECONDS,
)
_WEBHOOKS: Final = Counter(
    "batchwire_webhook_attempts",
    "Calls of webhooks' receivers: delivered, failed (it is tried again) or given_up.",
    ["model", "outcome"],
)
_UNREAD: Final = Counter(
    "batchwire_http_requests_refused_unread",
    "Requests refused by the loop, before the app: incomplete, malformed, too large, or too many.",
    ["code"],
)
PICTURES: Final = Counter(
    "batchwire_pictures",
    "Pictures by what became of them: ok, accepted (it is polled), or the code of the error.",
    ["model", "outcome"],
)

_LOST: Final = Counter(
    "batchwire_jobs_lost",
    "Accepted jobs that Redis has lost: waiting (enqueued again) or polled (their pollers are told).",
    ["model", "kind"],
)

_CACHED: Final = Counter(
    "batchwire_cached_pictures",
    "Pictures by where their answers came from, while RESULT_CACHE_S is set: hit, shared or miss.",
    ["model", "source"],
)

_LIMITED: Final = Counter(
    "batchwire_requests_limited",
    "Requests refused by the limits of their API key: rate_limited or too_many_jobs.",
    ["key", "reason"],
)
_KEY_PICTURES: Final = Counter(
    "batchwire_key_pictures",
    "Pictures taken by the limits of API keys that have some, or that poll.",
    ["key"],
)


def called(method: str, *, code: str, seconds: float) -> None:
    """This thread's call of gRPC was answered."""
    _CALLS.labels(method, question.CURRENT.get().model, code).inc()
    _CALL_DURATION.labels(method).observe(seconds)


def webhook(model: str, outcome: str) -> None:
    """A receiver was called, or a webhook given up."""
    _WEBHOOKS.labels(model, outcome).inc()


def job_lost(model: str, kind: str) -> None:
    """Redis has lost an accepted job."""
    _LOST.labels(model, kind).inc()


def cached(model: str, source: str) -> None:
    """A picture's answer came from there."""
    _CACHED.labels(model, source).inc()


def limited(key: str, reason: str) -> None:
    """A request was refused by its API key's limits."""
    _LIMITED.labels(key, reason).inc()


def key_pictures(key: str, count: int) -> None:
    """The limits of an API key took so many pictures."""
    _KEY_PICTURES.labels(key).inc(count)


def refused_unread(code: str) -> None:
    """The loop refused a request."""
    _UNREAD.labels(code).inc()


class _ThisProcess(Collector):
    """The metrics of a web tier of one process, which has no folder."""

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        return REGISTRY.collect()


class QueueCollector(Collector):
    """The queues and their workers as Redis has them when they are asked for."""

    def __init__(self, registry: Registry, producer: Producer) -> None:
        self._registry = registry
        self._producer = producer

    def collect(self) -> Iterator[Metric]:
        """See Collector. Without Redis only that it is away."""
        is_up = _Gauge("redis_up", "Whether Redis answered.")
        try:
            views = self._registry.models(fresh=True)
            depths = self._producer.depths.of(views)
            memory = self._producer.depths.memory()
        except BrokerUnavailable:
            is_up.add_metric([], 0)
            yield is_up
            return
        is_up.add_metric([], 1)
        yield is_up
        if memory is not None:
            for name, about, number in (
                ("redis_memory_bytes", "Bytes that Redis uses.", memory.used),
                ("redis_memory_limit_bytes", "Bytes that Redis may use; 0: no limit.", memory.limit),
            ):
                bytes_ = _Gauge(name, about)
                bytes_.add_metric([], number)
                yield bytes_
        jobs = _Gauge("queue_jobs", "Jobs in the queue, by what their clients do.", ["model", "kind"])
        size = _Gauge("queue_bytes", "Bytes of the queue, as admission counts them.", ["model"])
        age = _Gauge("queue_oldest_job_seconds", "The age of the queue's oldest job; 0: none.", ["model"])
        lanes = _Gauge("lanes_active", "Owners' lanes with jobs in the queue.", ["model"])
        asked = _Gauge("asked_seconds", "Seconds since a picture last came for the model.", ["model"])
        webhooks = _Gauge("webhooks_pending", "Webhooks of jobs that run, or not delivered yet.", ["model"])
        dead = _Gauge("dead_letters_kept", "Dead letters that wait for an operator.", ["model"])
        workers = _Gauge("workers", "Live workers by their state.", ["model", "state"])
        for model, depth in depths.items():
            view = views[model]
            jobs.add_metric([model, "waiting"], depth.waiting)
            jobs.add_metric([model, "polled"], depth.polled)
            size.add_metric([model], (depth.waiting + depth.polled) * view.job_size)
            age.add_metric([model], depth.oldest_s)
            lanes.add_metric([model], depth.lanes)
            if math.isfinite(depth.asked_s):
                asked.add_metric([model], depth.asked_s)
            webhooks.add_metric([model], depth.webhooks)
            dead.add_metric([model], depth.dead)
            for state in WorkerState:
                alike = sum(worker.state is state for worker in view.states.values())
                workers.add_metric([model, state.value], alike)
        yield from (jobs, size, age, lanes, asked, webhooks, dead, workers)


class _Gauge(GaugeMetricFamily):
    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        super().__init__(f"batchwire_{name}", about, labels=labels)


@dataclass(frozen=True, slots=True)
class Totals:
    """What this host's web processes have counted so far, of pictures and of requests that asked a model."""

    errors: Mapping[str, float]
    """Model -> pictures that failed."""
    durations: Mapping[float, float]
    """Upper bound in seconds -> requests that were no slower."""


def totals() -> Totals:
    """What was counted since the web tier started."""
    errors: defaultdict[str, float] = defaultdict(float)
    durations: defaultdict[float, float] = defaultdict(float)
    found = {metric.name: metric.samples for metric in _counted().collect()}
    for sample in found.get("batchwire_pictures", ()):
        if sample.name.endswith("_total") and sample.labels["outcome"] not in ("ok", "accepted"):
            errors[sample.labels["model"]] += sample.value
    requests = found.get("batchwire_http_requests", ())
    asking = {(each.labels["route"], each.labels["dialect"]) for each in requests if each.labels["model"]}
    for sample in found.get("batchwire_http_request_duration_seconds", ()):
        if sample.name.endswith("_bucket") and (sample.labels["route"], sample.labels["dialect"]) in asking:
            durations[float(sample.labels["le"])] += sample.value
    return Totals(errors, durations)


def _counted() -> CollectorRegistry:
    """A registry of what the web processes of this host count together."""
    registry = CollectorRegistry()
    folder = metrics_folder.path()
    if folder and Path(folder).is_dir():  # systemd clears /dev/shm when a user has logged out (RemoveIPC)
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    else:
        registry.register(_ThisProcess())
    return registry


def exposition(accept: str, queues: QueueCollector) -> tuple[bytes, str]:
    """All metrics of the web tier, of its processes together, as text; and its content type."""
    registry = _counted()
    registry.register(queues)
    encode: Callable[[CollectorRegistry], bytes]
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
