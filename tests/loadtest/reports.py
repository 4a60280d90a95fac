"""Reports as a run would make them, for the tests of what reads them.

Owns their numbers, which are written here and not computed: a test can name them.
"""

from typing import Any

from loadtest.measuring.figures import Bin, ClientFigures, Errors, Figures, RunReport, Slice
from loadtest.sending.messages import Load

UNDRAWN: dict[str, Any] = {"histogram": [], "over_time": [], "queue": [], "batch_sizes": {}}
"""What leaves a point without drawings of its own, which take their time."""

COUNTS = (12, 160, 900, 310, 70, 20, 8, 12)


def closed(clients: int) -> Load:
    return Load(clients, is_open=False)


def latencies(p50: float) -> dict[str, float | None]:
    factors = {"mean": 1.1, "p50": 1.0, "p90": 1.5, "p95": 1.75, "p99": 2.5, "p99.9": 3.5, "max": 4.0}
    return {name: p50 * factor for name, factor in factors.items()}


def point(clients: int = 8, **changes: Any) -> Figures:  # noqa: ANN401 - any of the fields
    """One closed-loop point whose latencies grow with the number of clients."""
    load = changes.pop("load", closed(clients))
    p50 = 20.0 + 4 * clients
    fields: dict[str, Any] = {
        "name": load.name,
        "load": load,
        "seconds": 10.0,
        "requests": 1492,
        "right": 1492,
        "failed": 0,
        "warmup_requests": 150,
        "per_s": 149.2,
        "latency_ms": latencies(p50),
        "errors": {},
        "stages_ms": {"waiting for a connection": 0.25, "queue": p50 * 0.4, "inference": p50 * 0.6},
        "batch_sizes": {1: 92, 4: 600, 8: 800},
        "models": {},
        "queue": [(second / 2, second % 4) for second in range(20)],
        "over_time": [Slice(second + 0.5, 140.0 + second, p50, p50 * 2.5, 0) for second in range(10)],
        "histogram": [Bin(p50 * 2 ** (n - 2), p50 * 2 ** (n - 1), count) for n, count in enumerate(COUNTS)],
        "client": ClientFigures(
            processes=2, busy=0.123, cpu_ms_per_request=0.75, queued=0, lag_ms=[0.125, 1.375, 8.5]
        ),
    }
    return Figures(**{**fields, **changes})


def failing(clients: int = 32, **changes: Any) -> Figures:  # noqa: ANN401 - any of the fields
    """A point some of whose requests failed."""
    fields: dict[str, Any] = {
        "right": 1483,
        "failed": 9,
        "errors": {"timeout": Errors(9, "no answer within 15 s")},
        "over_time": [Slice(second + 0.5, 300.0, 150.0, 400.0, second % 3) for second in range(10)],
    }
    return point(clients, **{**fields, **changes})


def empty(**changes: Any) -> Figures:  # noqa: ANN401 - any of the fields
    """A point without one right answer."""
    nothing: dict[str, Any] = {
        "right": 0,
        "requests": 0,
        "per_s": None,
        "latency_ms": dict.fromkeys(latencies(1)),
        "stages_ms": {},
        "batch_sizes": {},
        "queue": [],
        "over_time": [],
        "histogram": [],
        "client": ClientFigures(processes=1, busy=0.0, cpu_ms_per_request=None, queued=0, lag_ms=[0.0] * 3),
    }
    return point(1, **{**nothing, **changes})


def report(*points: Figures, **changes: Any) -> RunReport:  # noqa: ANN401 - any of the fields
    """One run over these points."""
    fields: dict[str, Any] = {
        "target": "http://localhost:5000",
        "started_at": "2026-03-02T09:41:07+00:00",
        "command": ["photos/", "--concurrency", "1,8,32"],
        "pictures": 8,
        "points": list(points),
    }
    return RunReport(**{**fields, **changes})
