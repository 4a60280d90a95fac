"""Samples the service every ten seconds for the status page: one web process at a time, for all of them.

Owns the thread, and what a sample says: from the numbers that /metrics shows and from what workers say of
themselves. Each web process has such a thread; it costs those that don't write one command in ten seconds.
"""

import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from broker.errors import BrokerUnavailable
from broker.history import SAMPLE_S, ModelSample, Sample
from broker.messages import State, WorkerState
from broker.registry import ModelView
from web import metrics
from web.jobs import JobClient
from web.metrics import Totals

_LOG: Final = logging.getLogger(__name__)

_MEDIAN: Final = 0.5
_TAIL: Final = 0.95


@dataclass(frozen=True, slots=True)
class _Look:
    """What was counted at a moment, all of it since some beginning."""

    at: float
    totals: Totals
    pictures: Mapping[str, int] = field(default_factory=dict)
    """By worker."""


class Sampler:
    """Writes the samples while it is this process' turn. `start` it once."""

    def __init__(self, jobs: JobClient) -> None:
        self._jobs = jobs
        self._store = jobs.producer.history
        self._before: _Look | None = None
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def sample(self) -> Sample | None:
        """Write a sample if it is this process' turn, and return it. Raises BrokerUnavailable."""
        if not self._store.take_turn(self._jobs.replies.frontend):
            self._before = None
            return None
        views, memory = self._jobs.registry.models(), self._jobs.producer.depths.memory()
        workers = {worker: state for view in views.values() for worker, state in view.states.items()}
        pictures = {worker: state.pictures for worker, state in workers.items()}
        look, before = _Look(self._jobs.registry.now(), metrics.totals(), pictures), self._before
        self._before = look
        durations = _since(look.totals.durations, before.totals.durations) if before else {}
        sample = Sample(
            at=round(look.at, 3),
            models={name: _model(name, view, look, before) for name, view in views.items()},
            redis_bytes=memory.used if memory is not None else None,
            p50_ms=quantile(durations, _MEDIAN),
            p95_ms=quantile(durations, _TAIL),
        )
        self._store.add(sample)
        return sample

    def _run(self) -> None:
        waiting = threading.Event()
        while True:
            try:
                self.sample()
            except BrokerUnavailable as error:
                _LOG.debug("a sample of the last hour is missing: %s", error.message)
            except Exception:  # noqa: BLE001 - the page of operators must not lose its plots for good
                _LOG.exception("a sample of the last hour failed; the next is tried. This is a bug")
            waiting.wait(SAMPLE_S)


def _model(name: str, view: ModelView, look: _Look, before: _Look | None) -> ModelSample:
    pictures, latency_ms = _pace(view.states, look, before)
    errors = None
    if before is not None:
        failed = max(0.0, look.totals.errors.get(name, 0.0) - before.totals.errors.get(name, 0.0))
        errors = _rate(failed, look, before)
    return ModelSample(
        queue=view.queue_length,
        workers=sum(state.state is WorkerState.READY for state in view.states.values()),
        pictures_per_s=pictures,
        errors_per_s=errors,
        latency_ms=latency_ms,
    )


def _pace(
    states: Mapping[str, State], look: _Look, before: _Look | None
) -> tuple[float | None, float | None]:
    """Pictures a second of a model's workers, and how long those took, in milliseconds."""
    if before is None:
        return None, None
    ran = {
        worker: max(0, state.pictures - before.pictures[worker])
        for worker, state in states.items()
        if worker in before.pictures
    }
    together = sum(ran.values())
    took = sum(each * (states[worker].waiting_ms + states[worker].latency_ms) for worker, each in ran.items())
    return _rate(together, look, before), round(took / together, 3) if together else None


def _rate(count: float, look: _Look, before: _Look) -> float:
    return round(count / max(look.at - before.at, 1.0), 3)


def _since(now: Mapping[float, float], before: Mapping[float, float]) -> dict[float, float]:
    """How many requests of each bucket came since; none where counting began anew."""
    since = {bound: count - before.get(bound, 0.0) for bound, count in now.items()}
    return since if min(since.values(), default=0.0) >= 0 else {}


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """A quantile in milliseconds, as Prometheus' histogram_quantile has it; None: there was nothing.

    `buckets`: upper bound in seconds -> how many were no slower.
    """
    bounds = sorted(buckets)
    whole = buckets[bounds[-1]] if bounds else 0.0
    if not whole:
        return None
    lower, below = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= share * whole:
            if math.isinf(bound):
                return round(lower * 1000, 3)
            return round((lower + (bound - lower) * (share * whole - below) / (count - below)) * 1000, 3)
        lower, below = bound, count
    return None
