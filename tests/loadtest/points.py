"""Points made by hand, for what shows and judges them."""

from loadtest.measuring.figures import LEAVING, REST, ClientFigures, Errors, Figures, OfModel
from loadtest.sending.messages import Load

RATE = Load(20, is_open=True)
LATENCY = {"mean": 24.0, "p50": 20.5, "p90": 31.0, "p95": 35.5, "p99": 40.5, "p99.9": 60.5, "max": 71.5}
NONE = dict.fromkeys(LATENCY)


def client(*, busy: float = 0.2, lag: float = 0.5, queued: int = 0) -> ClientFigures:
    return ClientFigures(2, busy, 1.0, queued, [0.1, lag, 900.0])


def figures(load: Load = RATE, /, **changes: object) -> Figures:
    point = Figures(
        name=load.name,
        load=load,
        seconds=10.0,
        requests=200,
        right=197,
        failed=3,
        per_s=19.7,
        latency_ms=dict(LATENCY),
        errors={"http 503 overloaded": Errors(2, "full"), "timeout": Errors(1, "no answer within 1 s")},
        stages_ms={LEAVING: 0.5, "queue": 6.0, "model": 12.0, REST: 5.5},
        batch_sizes={1: 50, 4: 150},
        models={"": OfModel(150, 148, 19.5, 39.5), "digits": OfModel(50, 49, 29.5, 49.5)},
        queue=[],
        over_time=[],
        histogram=[],
        client=client(),
    )
    for name, value in changes.items():
        setattr(point, name, value)
    return point


def quiet(load: Load = RATE, /, **changes: object) -> Figures:
    """A point of which there is nothing to show but its row."""
    nothing: dict[str, object] = {"errors": {}, "batch_sizes": {}, "models": {}, "stages_ms": {}, "failed": 0}
    return figures(load, **nothing | changes)
