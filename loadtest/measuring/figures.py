"""The figures of one point: what its records add up to, as it is shown, written and compared.

Owns the shapes that `--json` writes and the other outputs read. Counting is columns.py's.
"""

from statistics import fmean
from typing import Final

import msgspec

from loadtest.sending.messages import Load

FORMAT: Final = "load test figures"

VERSION: Final = 1
"""Of the JSON format. It is raised when a figure changes its meaning."""


LEAVING: Final = "leaving the load tester"
"""The stage from when a request was due to when it left: late tester, or no free connection."""

REST: Final = "the rest: HTTP, decoding, broker"
ALL: Final = "the network and the server"
"""What is left where a server tells its stages, and where it does not."""


REFUSED: Final = ("http 401", "http 403")
"""Kinds of failure of a request whose key is missing, or may not ask this."""

NO_LOAD: Final = (
    "http 400",
    "http 401",
    "http 403",
    "http 404",
    "http 405",
    "http 413",
    "http 415",
    "http 422",
    "bad",
)
"""Kinds of failure that a server under load does not have."""


class Errors(msgspec.Struct):
    """One kind of failed request."""

    count: int
    example: str
    """The message of the first."""


class Slice(msgspec.Struct):
    """A short part of a point: latencies of requests due in it, the rate of answers that ended in it."""

    at_s: float
    """Its middle, in seconds from the point's start."""
    per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int


class Bin(msgspec.Struct):
    """One bar of the latency histogram."""

    from_ms: float
    to_ms: float
    count: int


class OfModel(msgspec.Struct):
    """The share of one model in a mixed load."""

    requests: int
    right: int
    p50_ms: float | None
    p99_ms: float | None


class ClientFigures(msgspec.Struct):
    """How hard the tester itself had to work."""

    processes: int
    busy: float
    """The busiest process' CPU seconds a second, 0..1."""
    cpu_ms_per_request: float | None
    queued: int
    """Requests that found all connections in use."""
    lag_ms: list[float]
    """How late its event loop woke: p50, p99, the largest."""


class Strike(msgspec.Struct):
    """One run of a fault's command; its times are seconds from the point's start, in a ledger the run's."""

    fault: str
    """The command, as it was given."""
    began: float
    ended: float = 0.0
    status: int | None = None
    """The command's exit status; negative: the signal that ended it; None: it was never started."""
    trouble: str = ""
    """Why the strike may not have struck, in words: its status, or that it was killed."""

    def since(self, start: float) -> "Strike":
        """Return it with its times counted from `start`."""
        moments = {"began": round(self.began - start, 6), "ended": round(self.ended - start, 6)}
        return msgspec.structs.replace(self, **moments)


class OfFault(msgspec.Struct, kw_only=True):
    """What became of the requests that belong to the strikes of one fault."""

    fault: str
    """The command; empty for the requests that ended before the first strike."""
    strikes: int = 0
    troubled: int = 0
    """Strikes whose command failed."""
    requests: int = 0
    right: int = 0
    refused: int = 0
    """Answered 503 with a reason in words."""
    cut: int = 0
    """Their connection was cut, or refused."""
    lost: int = 0
    """Any other failure."""
    wrong: int = 0
    """Answers that are not the picture's."""
    slowest_s: float | None = None
    """Of the right answers, from when each was due."""
    back_s: float | None = None
    """From a strike until the first request was due from which on all were right again; the longest."""
    unrecovered: int = 0
    """Strikes after whose last failure no request came that could have been right."""


class FaultAccount(msgspec.Struct, kw_only=True):
    """Every request of a run with faults, accounted for."""

    rows: list[OfFault]
    requests: int
    interrupted: int = 0
    doubled: int = 0
    """Requests that ended more than once."""
    missing: int = 0
    """Requests that never ended."""

    @property
    def is_sound(self) -> bool:
        """Whether every fault struck, nothing was lost or wrong, and every request ended exactly once."""
        struck = all(row.strikes and not row.troubled for row in self.rows if row.fault)
        kept = not any(row.lost or row.wrong for row in self.rows)
        return struck and kept and not self.doubled and not self.missing


class Figures(msgspec.Struct, kw_only=True):
    """One point. Requests of the warm-up are counted in `warmup_requests` and `warmup_failed` alone."""

    name: str
    load: Load
    seconds: float
    """The time that was measured."""
    requests: int
    right: int
    failed: int
    interrupted: int = 0
    warmup_requests: int = 0
    warmup_failed: int = 0
    per_s: float | None
    """Right answers a second."""
    latency_ms: dict[str, float | None]
    """mean, p50, p90, p95, p99, p99.9, max of the right answers, from when each request was due."""
    errors: dict[str, Errors]
    stages_ms: dict[str, float]
    """Where the mean latency went, in the order of a request's way; they add up to the mean."""
    batch_sizes: dict[int, int]
    """Answers by the size of the batch that they rode in."""
    models: dict[str, OfModel]
    queue: list[tuple[float, int]]
    """(seconds from the point's start, jobs waiting at the server)."""
    over_time: list[Slice]
    histogram: list[Bin]
    client: ClientFigures
    given_up: str = ""
    """Why it was ended before its time; empty when it was not. What was measured then tells little."""
    stable: bool | None = None
    """Whether it ended because it was stable; None when that was not asked for."""
    misses: list[str] = []
    """What of the objective was missed, in words."""
    strikes: list[Strike] = []
    """The strikes that began in it."""

    @property
    def leaving_share(self) -> float:
        """The share of the mean latency that arose in the load tester itself, 0..1."""
        mean = self.latency_ms["mean"]
        return self.stages_ms.get(LEAVING, 0.0) / mean if mean else 0.0

    @property
    def mean_batch_size(self) -> float | None:
        """The mean size of the batches that the answers rode in; None where no answer said."""
        return fmean(self.batch_sizes, self.batch_sizes.values()) if self.batch_sizes else None


class RunReport(msgspec.Struct, kw_only=True):
    """One run: the whole of what `--json` writes."""

    format: str = FORMAT
    version: int = VERSION
    target: str
    started_at: str
    command: list[str]
    pictures: int
    slo: str = ""
    points: list[Figures]
    conclusion: str = ""
    """The search's result in one line; empty when nothing was searched."""
    interrupted: bool = False
    """Whether the user stopped it: loads that were asked for may be missing."""
    warnings: list[str] = []
    faults: FaultAccount | None = None
    """The account of a run with --fault."""
