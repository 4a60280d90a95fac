"""What both tiers measure alike, for Prometheus: how long Redis takes, and where a job's time goes.

Owns the names, the labels and the buckets, and the port of processes that do not speak HTTP. The numbers of
one tier alone are web/metrics.py's and model_server/serving/metrics.py's; docs/metrics.md has them all.
"""

import logging
from typing import Final

from prometheus_client import Histogram, disable_created_metrics, start_http_server

disable_created_metrics()  # type: ignore[no-untyped-call] # a series more for each, which nobody reads

_LOG: Final = logging.getLogger(__name__)

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of a histogram's buckets: a stage takes from a millisecond to a request's ten seconds."""

REDIS_OPERATION: Final = Histogram(
    "batchwire_redis_operation_duration_seconds",
    "One operation on Redis, with its round trips, whether it succeeds or not.",
    ["operation"],
    buckets=(0.0002, 0.0005, *SECONDS[:10]),
)

STAGE: Final = Histogram(
    "batchwire_stage_duration_seconds",
    "One stage of a picture's way: decode, queue, batch, model or reply.",
    ["model", "stage"],
    buckets=SECONDS,
)


def serve(first_port: int, *, ports: int, address: str) -> None:
    """Answer GET /metrics on the first of so many ports that is free: each process of a host takes one."""
    for port in range(first_port, first_port + ports):
        try:
            start_http_server(port, addr=address)
        except OSError:
            continue
        _LOG.info("metrics are at port %d", port)
        return
    _LOG.warning("no metrics: the ports from %d to %d are taken (METRICS_PORT)", first_port, port)
