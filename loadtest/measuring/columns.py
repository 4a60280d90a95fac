"""The records of one point in columns of numbers, and their sums.

Owns the counting: percentiles, windows, slices, stages. A million requests take some 100 MB here.
"""

from array import array
from collections import Counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loadtest.measuring.figures import ALL, LEAVING, REST, Bin, ClientFigures, Errors, Figures, OfModel, Slice
from loadtest.measuring.slo import nearest_rank, percentile_name
from loadtest.sending.messages import INTERRUPTED, OK, Load, LoadEnd, Record

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9, 100.0)

_SLICE_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_MOST_SLICES: Final = 120
_BINS_A_DECADE: Final = 20
_MOST_KINDS: Final = 20

_REPORT_DELAY_S: Final = 0.5
"""Records come a tenth of a second late from a client process, and later from a busy one."""

_POISSON_DEVIATIONS: Final = 5

Floats = NDArray[np.float64]


class Columns:
    """Takes records as they come."""

    def __init__(self, load: Load, start: float) -> None:
        self.load = load
        self.start = start
        self._due, self._sent, self._ended = array("d"), array("d"), array("d")
        self._right = array("b")
        self._model, self._batch = array("i"), array("i")
        self._models: dict[str, int] = {}
        self._stages: dict[str, array[float]] = {}
        # The kind of failure of each request, -1 for a right answer, and the first message of each kind.
        self._kind = array("i")
        self._kinds: dict[str, int] = {}
        self._examples: list[str] = []
        self._copies = np.empty(0), np.empty(0), np.empty(0, dtype=bool)
        self._right_so_far = 0
        self.queue: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    @property
    def failed(self) -> int:
        """Requests without a right answer so far, the interrupted ones included."""
        return len(self) - self._right_so_far

    def add(self, record: Record) -> None:
        """Take one record. Times are kept in seconds from the point's start."""
        # Rounded to nanoseconds: (start + 1) - start may be less than 1, and so be outside its window.
        self._due.append(round(record.due - self.start, 9))
        self._sent.append(round((record.sent or record.ended) - self.start, 9))
        self._ended.append(round(record.ended - self.start, 9))
        self._right.append(record.outcome == OK)
        self._model.append(self._models.setdefault(record.model, len(self._models)))
        self._batch.append(record.batch_size)
        for name, value in record.stages_ms.items():
            if name not in self._stages:
                self._stages[name] = array("d", [np.nan] * (len(self._due) - 1))
            self._stages[name].append(value)
        for column in self._stages.values():
            if len(column) < len(self._due):
                column.append(np.nan)
        self._kind.append(self._kind_of(record))

    def window(self, begin: float, end: float) -> tuple[float, Floats, int]:
        """Return (right answers a second that ended in it, latencies of those due in it, how many failed)."""
        due, ended, right = self._arrays()
        inside = (due >= begin) & (due < end)
        ended_inside = right & (ended >= begin) & (ended < end)
        failed = int((inside & self._failed()).sum())
        return float(ended_inside.sum()) / (end - begin), (ended - due)[inside & right], failed

    def late(self, limit_s: float, begin: float, elapsed: float) -> int:
        """How many requests of an open loop, due from `begin` on, took longer, failed or are overdue.

        `elapsed` is in seconds from the start.
        """
        due, ended, right = self._arrays()
        mine = due >= begin
        late = mine & (~right | (ended - due > limit_s))
        patience = elapsed - limit_s - _REPORT_DELAY_S
        expected = self.load.value * max(0.0, patience - begin)
        if self.load.poisson:
            expected -= _POISSON_DEVIATIONS * expected**0.5  # so few may be due by chance
        return int(late.sum()) + max(0, int(expected) - int((mine & (due < patience)).sum()))

    def figures(
        self, done: list[LoadEnd], *, warmup_s: float, begin: float | None = None, stable: bool | None = None
    ) -> Figures:
        """Sum up what was due from `begin` (default: the end of the warm-up) on."""
        due, ended, right = self._arrays()
        begin = warmup_s if begin is None else begin
        stopped = max((each.stopped - self.start for each in done), default=0.0)
        mine = due >= begin
        good = mine & right
        # Warmed up, the server is as busy at the first moment as at the last: what ended meanwhile is the
        # rate. From a standing start the last answers belong to it too.
        until = stopped if begin > 0 and stopped > begin else float(ended[mine].max(initial=begin))
        if begin == 0 and self.load.is_open and not self.load.poisson:
            until = max(until, len(self) / self.load.value)  # the last request has its time, too
        answered = int((right & (ended >= begin) & (ended <= until)).sum())
        seconds = until - begin
        failed = self._failed()
        latencies = np.sort((ended - due)[good]) * 1000
        return Figures(
            name=self.load.name,
            load=self.load,
            seconds=seconds,
            requests=int(mine.sum()),
            right=int(good.sum()),
            failed=int((mine & failed).sum()),
            interrupted=int((mine & ~right & ~failed).sum()),
            warmup_requests=int((~mine).sum()),
            warmup_failed=int((~mine & failed).sum()),
            per_s=answered / seconds if seconds > 0 else None,
            latency_ms=_latencies(latencies),
            errors=self._errors(mine & failed),
            stages_ms=self._stage_means(good),
            batch_sizes=self._batch_sizes(good),
            models=self._by_model(mine, good),
            queue=[(round(at - self.start, 3), jobs) for at, jobs in self.queue],
            over_time=self._slices(until),
            histogram=_histogram(latencies),
            client=_client(done, len(self)),
            stable=stable,
        )

    def latencies_s(self, begin: float) -> tuple[Floats, int]:
        """Return the latencies of right answers due from `begin` on, and how many requests failed."""
        due, ended, right = self._arrays()
        mine = due >= begin
        return (ended - due)[mine & right], int((mine & ~right).sum())

    def failed_alike(self) -> tuple[str, str] | None:
        """The one kind of failure, with its first message, if every request so far ended with it."""
        if len(self._kinds) != 1 or self._right_so_far:
            return None
        return next(iter(self._kinds)), self._examples[0]

    def _kind_of(self, record: Record) -> int:
        if record.outcome == OK:
            self._right_so_far += 1
            return -1
        kind = record.outcome
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = "other kinds of failure"
        if kind not in self._kinds:
            self._kinds[kind] = len(self._examples)
            self._examples.append(record.message)
        return self._kinds[kind]

    def _failed(self) -> NDArray[np.bool_]:
        """Which requests failed; the interrupted ones did not."""
        kind = np.array(self._kind)
        failed: NDArray[np.bool_] = (kind >= 0) & (kind != self._kinds.get(INTERRUPTED, -1))
        return failed

    def _errors(self, chosen: NDArray[np.bool_]) -> dict[str, Errors]:
        counts = np.bincount(np.array(self._kind)[chosen], minlength=len(self._examples))
        found = {kind: Errors(int(counts[n]), self._examples[n]) for kind, n in self._kinds.items()}
        return {kind: errors for kind, errors in found.items() if errors.count}

    def _arrays(self) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        # Copies: an array that NumPy looks into can't grow any more. New ones only after new records.
        if len(self._copies[0]) != len(self._due):
            self._copies = np.array(self._due), np.array(self._ended), np.array(self._right, dtype=bool)
        return self._copies

    def _stage_means(self, good: NDArray[np.bool_]) -> dict[str, float]:
        if not good.any():
            return {}
        due, ended, _ = self._arrays()
        sent = np.array(self._sent)
        stages = {LEAVING: float((sent - due)[good].mean()) * 1000}
        for name, column in self._stages.items():
            stages[name] = float(np.nan_to_num(np.array(column)[good]).mean())
        rest = float((ended - due)[good].mean()) * 1000 - sum(stages.values())
        stages[REST if len(stages) > 1 else ALL] = max(0.0, rest)
        return stages

    def _batch_sizes(self, good: NDArray[np.bool_]) -> dict[int, int]:
        sizes = Counter(np.array(self._batch)[good].tolist())
        return {size: sizes[size] for size in sorted(sizes) if size}

    def _by_model(self, mine: NDArray[np.bool_], good: NDArray[np.bool_]) -> dict[str, OfModel]:
        if len(self._models) < 2:
            return {}
        due, ended, _ = self._arrays()
        models = np.array(self._model)
        found = {}
        for name, index in self._models.items():
            latencies = np.sort((ended - due)[good & (models == index)]) * 1000
            found[name] = OfModel(
                requests=int((mine & (models == index)).sum()),
                right=len(latencies),
                p50_ms=nearest_rank(latencies, 50),
                p99_ms=nearest_rank(latencies, 99),
            )
        return found

    def _slices(self, until: float) -> list[Slice]:
        width = next((w for w in _SLICE_S if until / w <= _MOST_SLICES), _SLICE_S[-1])
        slices = []
        for number in range(int(until / width)):
            rate, latencies, failed = self.window(number * width, (number + 1) * width)
            ordered = np.sort(latencies) * 1000
            p50, p99 = nearest_rank(ordered, 50), nearest_rank(ordered, 99)
            slices.append(Slice((number + 0.5) * width, rate, p50, p99, failed))
        return slices


def _latencies(ordered_ms: Floats) -> dict[str, float | None]:
    mean = float(ordered_ms.mean()) if len(ordered_ms) else None
    return {"mean": mean} | {percentile_name(p): nearest_rank(ordered_ms, p) for p in PERCENTILES}


def _histogram(ordered_ms: Floats) -> list[Bin]:
    """Bars of equal width on a logarithmic axis, twenty to a decade."""
    if not len(ordered_ms) or ordered_ms[0] <= 0:
        return []
    first = np.floor(np.log10(ordered_ms[0]) * _BINS_A_DECADE)
    last = np.floor(np.log10(ordered_ms[-1]) * _BINS_A_DECADE) + 1
    edges = 10 ** (np.arange(first, last + 1) / _BINS_A_DECADE)
    edges[0], edges[-1] = min(edges[0], ordered_ms[0]), max(edges[-1], ordered_ms[-1])
    counts, _ = np.histogram(ordered_ms, edges)
    return [Bin(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def _client(done: list[LoadEnd], requests: int) -> ClientFigures:
    cpu = sum(each.cpu_s for each in done)
    return ClientFigures(
        processes=len(done),
        busy=max((each.cpu_s / each.wall_s for each in done if each.wall_s), default=0.0),
        cpu_ms_per_request=cpu / requests * 1000 if requests else None,
        queued=sum(each.queued for each in done),
        lag_ms=[max((each.lags_ms[n] for each in done), default=0.0) for n in range(3)],
    )
