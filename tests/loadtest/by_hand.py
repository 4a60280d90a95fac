"""Records made by hand, for the tests of what they add up to."""

from loadtest.measuring.columns import Columns
from loadtest.measuring.figures import Figures
from loadtest.sending.messages import OK, Load, LoadEnd, Record

START = 123456.1  # no power of two: START + 1 - START is less than 1
RATE = Load(100, is_open=True)
POISSON = Load(100, is_open=True, poisson=True)
CLIENTS = Load(8, is_open=False)


def done(stopped: float, **changes: float) -> LoadEnd:
    lags = [changes.get("lag", 0.1), changes.get("lag", 0.1) * 2, 5.0]
    cpu_s, wall_s = changes.get("cpu_s", 0.5), changes.get("wall_s", 1.0)
    return LoadEnd(0, START + stopped, int(changes.get("queued", 0)), cpu_s, wall_s, lags)


def add(columns: Columns, due: float, latency: float = 0.01, outcome: str = OK, **changes: object) -> None:
    waited = changes.pop("waited", 0.0)
    assert isinstance(waited, float)
    record = Record(
        len(columns), "a.jpg", "", START + due, START + due + waited, START + due + latency, outcome
    )
    for name, value in changes.items():
        setattr(record, name, value)
    columns.add(record)


def steady(load: Load, seconds: float, latency: float = 0.01, *, rate: int = 100) -> Columns:
    """Requests due evenly, each of them answered after the same time."""
    columns = Columns(load, START)
    for number in range(round(seconds * rate)):
        add(columns, number / rate, latency)
    return columns


def figures(columns: Columns, stopped: float = 1.0, *, warmup_s: float = 0.0) -> Figures:
    return columns.figures([done(stopped)], warmup_s=warmup_s)
